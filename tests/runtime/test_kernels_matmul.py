"""The generated kernels against float64, for every weight type."""

import numpy as np
import pytest

from csaq_runtime.formats import LAYOUTS, GGMLType, dequantize
from csaq_runtime.kernels.dispatch import kernel_for
from csaq_runtime.weights import pack_matrix
from tests.runtime.kernel_cases import (
    FLOAT_TYPES,
    HALF_FIELDS,
    TYPES,
    columns_of,
    product,
    random_rows,
    random_x,
    rounding_of_sums,
    seen_by_kernel,
)

N_ROW = 37  # three groups of 16, the last one padded
TOKENS = (1, 2, 3, 5, 7, 8, 13)


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_product_equals_float64_within_rounding(ggml_type: GGMLType) -> None:
    n_col = columns_of(ggml_type)
    rows, x = random_rows(ggml_type, N_ROW, n_col), random_x(13, n_col)
    entry = kernel_for(ggml_type)
    y = product(entry, pack_matrix(rows, ggml_type, n_col), x)
    weights = dequantize(rows, ggml_type).astype(np.float64)
    inputs = seen_by_kernel(entry.activation, x)
    scale = np.linalg.norm(inputs, axis=1)[:, None] * np.linalg.norm(weights, axis=1)
    assert np.isfinite(weights).all()
    assert scale.min() > 0
    expected = inputs @ weights.T + rounding_of_sums(ggml_type, rows, x)
    assert (np.abs(y[:, :N_ROW] - expected) / scale).max() < 1e-6
    assert not y[:, N_ROW:].any()


@pytest.mark.parametrize("fill", [0, 0x80, 0xFF], ids=hex)
@pytest.mark.parametrize(
    "ggml_type", [t for t in TYPES if t not in FLOAT_TYPES], ids=lambda t: t.name
)
def test_nothing_saturates_at_extreme_codes(ggml_type: GGMLType, fill: int) -> None:
    """Largest codes and sub-block scales meet activations that are all ±127: sums peak."""
    n_col = columns_of(ggml_type)
    blocks = random_rows(ggml_type, 16, n_col).reshape(-1, LAYOUTS[ggml_type].type_size)
    kept = [i + byte for i in HALF_FIELDS.get(ggml_type.name, (0,)) for byte in range(2)]
    if ggml_type is not GGMLType.IQ1_M:  # its scale lies among the codes
        blocks[:, np.setdiff1d(np.arange(blocks.shape[1]), kept)] = fill
    signs = np.resize(np.array([1, -1], np.float32), (9, 1))
    x = np.ones((9, n_col), np.float32) * signs
    entry, rows = kernel_for(ggml_type), blocks.reshape(16, -1)
    y = product(entry, pack_matrix(rows, ggml_type, n_col), x)
    weights = dequantize(rows, ggml_type).astype(np.float64)
    inputs = seen_by_kernel(entry.activation, x)
    expected = inputs @ weights.T + rounding_of_sums(ggml_type, rows, x)
    np.testing.assert_allclose(
        y[:, :16], expected, rtol=1e-5, atol=1e-5 * np.abs(weights).sum(axis=1).max()
    )


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_a_token_gives_the_same_bits_in_every_batch_and_thread_split(ggml_type: GGMLType) -> None:
    n_col = columns_of(ggml_type)
    matrix = pack_matrix(random_rows(ggml_type, N_ROW, n_col), ggml_type, n_col)
    entry, x = kernel_for(ggml_type), random_x(13, n_col)
    whole = product(entry, matrix, x)
    for n_token in TOKENS:
        alone = product(entry, matrix, x[:n_token], cuts=(1,))
        assert np.array_equal(alone, whole[:n_token])
    assert np.array_equal(product(entry, matrix, x, cuts=(1, 2)), whole)


@pytest.mark.parametrize("ggml_type", [GGMLType.Q4_K, GGMLType.Q8_0], ids=lambda t: t.name)
def test_more_tokens_than_one_pass_holds(ggml_type: GGMLType) -> None:
    n_col = 256
    matrix = pack_matrix(random_rows(ggml_type, 16, n_col), ggml_type, n_col)
    entry = kernel_for(ggml_type)
    x = np.concatenate([random_x(64, n_col)] * 3)[:135]
    y = product(entry, matrix, x)
    assert np.array_equal(y[64:128], y[:64])
    assert np.array_equal(y[128:], y[:7])


@pytest.mark.parametrize("n_col", [1, 2, 3, 4, 5, 63])
@pytest.mark.parametrize("ggml_type", [GGMLType.F32, GGMLType.F16], ids=lambda t: t.name)
def test_float_rows_of_any_length(ggml_type: GGMLType, n_col: int) -> None:
    rows, x = random_rows(ggml_type, 5, n_col), random_x(3, n_col)
    entry = kernel_for(ggml_type)
    y = product(entry, pack_matrix(rows, ggml_type, n_col), x)
    inputs = seen_by_kernel(entry.activation, x)
    np.testing.assert_allclose(
        y[:, :5], inputs @ dequantize(rows, ggml_type).T.astype(np.float64), rtol=1e-5, atol=1e-4
    )
