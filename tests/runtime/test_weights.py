"""Packing weights: sizes are checked, bytes are only moved."""

import numpy as np
import pytest

from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.kernels.dispatch import EXPANDED_TYPES, MATRIX_TYPES
from csaq_runtime.weights import pack_matrix
from tests.runtime.kernel_cases import random_rows

MOVED_TYPES = [GGMLType[name] for name in ("F32", "F16", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q6_K")]


@pytest.mark.parametrize("ggml_type", MOVED_TYPES, ids=lambda t: t.name)
def test_packing_permutes_the_bytes(ggml_type: GGMLType) -> None:
    rows = random_rows(ggml_type, 32, 512)
    matrix = pack_matrix(rows, ggml_type, 512)
    assert matrix.data.nbytes == rows.nbytes
    assert np.array_equal(np.sort(matrix.data), np.sort(rows, axis=None))


def test_q8_0_word_positions() -> None:
    rows = np.arange(16 * 34, dtype=np.uint32).astype(np.uint8).reshape(16, 34)
    matrix = pack_matrix(rows, GGMLType.Q8_0, 32)
    assert np.array_equal(matrix.data[:32].reshape(16, 2), rows[:, :2])
    codes = matrix.data[32:].reshape(8, 16, 4).transpose(1, 0, 2).reshape(16, 32)
    assert np.array_equal(codes, rows[:, 2:] ^ 0x80)


def test_rows_are_padded_with_zeros_to_a_multiple_of_16() -> None:
    matrix = pack_matrix(random_rows(GGMLType.Q4_0, 17, 64), GGMLType.Q4_0, 64)
    assert (matrix.n_row, matrix.n_row_padded, matrix.n_group) == (17, 32, 2)
    second = matrix.data[len(matrix.data) // 2 :].reshape(2, -1)
    assert not second[:, 2:32].any()  # scales of the 15 rows that do not exist


def test_data_is_aligned_and_independent_of_the_source() -> None:
    rows = random_rows(GGMLType.Q4_K, 16, 256)
    matrix = pack_matrix(rows, GGMLType.Q4_K, 256)
    before = matrix.data.copy()
    rows[:] = 0
    assert matrix.address % 64 == 0
    assert np.array_equal(matrix.data, before)


def test_rows_of_a_read_only_slice_are_accepted() -> None:
    wide = np.concatenate([random_rows(GGMLType.Q4_0, 16, 64)] * 2, axis=1)
    view = wide[:, : row_bytes(GGMLType.Q4_0, 64)]
    view.flags.writeable = False
    packed = pack_matrix(view, GGMLType.Q4_0, 64)
    assert np.array_equal(packed.data, pack_matrix(view.copy(), GGMLType.Q4_0, 64).data)


@pytest.mark.parametrize(
    ("shape", "n_col"),
    [((16, 17), 32), ((16, 19), 32), ((16, 18), 64), ((16, 18), 31), ((0, 18), 32), ((16, 18), 0)],
)
def test_wrong_sizes_are_refused(shape: tuple[int, int], n_col: int) -> None:
    with pytest.raises(ModelError, match="Q4_0"):
        pack_matrix(np.zeros(shape, np.uint8), GGMLType.Q4_0, n_col)


def test_types_without_a_kernel_are_refused() -> None:
    assert EXPANDED_TYPES < MATRIX_TYPES
    with pytest.raises(ModelError, match="I32"):
        pack_matrix(np.zeros((16, 64), np.uint8), GGMLType.I32, 16)
