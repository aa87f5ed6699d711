"""Every type dequantizes to the bits that gguf-py gives, for any bytes."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.formats import DEQUANTIZABLE, LAYOUTS, GGMLType, dequantize

TYPES = sorted(DEQUANTIZABLE)
# As float16: subnormals, smallest normal, greatest, infinities, NaN, −0; as bytes: E8M0 ends.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]


def n_byte(ggml_type: GGMLType, n_block: int = 8) -> int:
    return LAYOUTS[ggml_type].type_size * n_block


def assert_equal_bits(data: NDArray[np.uint8], ggml_type: GGMLType) -> None:
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(int(ggml_type)))
    found = dequantize(data, ggml_type)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    both_nan = np.isnan(found) & np.isnan(expected)
    assert ((found.view(np.uint32) == expected.view(np.uint32)) | both_nan).all()


def test_every_type_gguf_py_dequantizes_is_covered() -> None:
    known = {GGMLType.F32, GGMLType.F16} | {
        GGMLType(int(kind)) for kind in gguf.quants._type_traits if int(kind) in LAYOUTS
    }
    assert known == DEQUANTIZABLE


@pytest.mark.parametrize("ggml_type", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(ggml_type: GGMLType, seed: int) -> None:
    rng = np.random.default_rng([seed, ggml_type])
    assert_equal_bits(rng.integers(0, 256, (37, n_byte(ggml_type)), np.uint8), ggml_type)


@pytest.mark.parametrize("ggml_type", TYPES)
def test_every_constant_byte(ggml_type: GGMLType) -> None:
    rows = np.repeat(np.arange(256, dtype=np.uint8)[:, None], n_byte(ggml_type, 2), axis=1)
    assert_equal_bits(rows, ggml_type)


@pytest.mark.parametrize("ggml_type", TYPES)
def test_extreme_scales(ggml_type: GGMLType) -> None:
    """Each extreme half float at each byte of otherwise random blocks."""
    size = LAYOUTS[ggml_type].type_size
    rng = np.random.default_rng(ggml_type)
    rows = rng.integers(0, 256, (len(EXTREMES) * (size - 1), size), np.uint8)
    for i, row in enumerate(rows):
        at = i % (size - 1)
        row[at : at + 2] = np.array(EXTREMES[i // (size - 1)], "<u2").reshape(1).view(np.uint8)
    assert_equal_bits(rows, ggml_type)


@pytest.mark.parametrize("ggml_type", TYPES)
def test_slices_join_without_seams(ggml_type: GGMLType) -> None:
    """More weights than one internal slice, and not a multiple of it."""
    n_col = LAYOUTS[ggml_type].block_size * 3
    n_row = 2**18 // n_col + 5
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, (n_row, n_byte(ggml_type, 3)), np.uint8)
    whole, last = dequantize(data, ggml_type), dequantize(data[-9:], ggml_type)
    assert np.array_equal(whole[-9:], last, equal_nan=True)


def test_rows_of_a_strided_view_dequantize() -> None:
    data = np.random.default_rng(2).integers(0, 256, (6, 2 * 34), np.uint8)
    assert_equal_bits(data[::2, :34], GGMLType.Q8_0)


@pytest.mark.parametrize("ggml_type", sorted(set(GGMLType) - DEQUANTIZABLE))
def test_types_without_weights_are_refused(ggml_type: GGMLType) -> None:
    with pytest.raises(ValueError, match=f"{ggml_type.name} cannot be dequantized"):
        dequantize(np.zeros((1, n_byte(ggml_type)), np.uint8), ggml_type)


def test_partial_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="35 bytes are no whole Q8_0 blocks"):
        dequantize(np.zeros((1, 35), np.uint8), GGMLType.Q8_0)
