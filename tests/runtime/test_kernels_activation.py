"""Packed activations: codes and sums as ggml's, words where `activation` says."""

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.activation import (
    LAYOUTS,
    TILE_SIZES,
    Activation,
    Block32,
    Block256,
    packed_activation_bytes,
)
from csaq_runtime.kernels.dispatch import kernel_for
from tests.runtime.kernel_cases import integer_blocks, pack_x, random_x, scaled_sums

TYPE_OF = {
    Activation.FLOAT32: GGMLType.F32,
    Activation.FLOAT16: GGMLType.F16,
    Activation.BLOCK_32: GGMLType.Q8_0,
    Activation.BLOCK_256: GGMLType.Q4_K,
}
PAIR_ORDER = [0, 2, 1, 3]


def words_of(kind: Activation, x: NDArray[np.float32]) -> NDArray[np.int32]:
    """Packed words as [n_token, n_block, n_word]: undoes the tiles."""
    packed = pack_x(kernel_for(TYPE_OF[kind]), x).view(np.int32)
    n_word, tokens, start = LAYOUTS[kind].n_word, [], 0
    per_token = len(packed) // len(x)
    while start < len(x):
        size = next(n for n in TILE_SIZES if n <= len(x) - start)
        tile = packed[start * per_token : (start + size) * per_token].reshape(-1, n_word, size)
        tokens.append(np.moveaxis(tile, 2, 0))
        start += size
    return np.concatenate(tokens)


def codes_in(words: NDArray[np.int32], n_code: int) -> NDArray[np.int8]:
    return np.ascontiguousarray(words[..., : n_code // 4]).view(np.int8)


def pairs(sums: NDArray[np.int32]) -> NDArray[np.int32]:
    grouped = sums.reshape(*sums.shape[:2], -1, 4)[..., PAIR_ORDER]
    return np.ascontiguousarray(grouped.reshape(sums.shape), np.int16).view(np.int32)


@pytest.mark.parametrize("n_token", [1, 2, 3, 7, 8, 13])
def test_block_32_words(n_token: int) -> None:
    x = random_x(n_token, 96)
    x[0, :32] = 0
    words = words_of(Activation.BLOCK_32, x)
    codes, scales = integer_blocks(Activation.BLOCK_32, x)
    totals = codes.sum(axis=2, dtype=np.int32)
    assert np.array_equal(codes_in(words, 32), codes)
    assert np.array_equal(words[..., Block32.SCALE].view(np.float32), scales)
    assert np.array_equal(words[..., Block32.SCALED_SUM].view(np.float32), scaled_sums(x))
    assert np.array_equal(words[..., Block32.MINUS_8_SUM], -8 * totals)
    assert np.array_equal(words[..., Block32.MINUS_16_SUM], -16 * totals)
    assert np.array_equal(words[..., Block32.MINUS_128_SUM], -128 * totals)


@pytest.mark.parametrize("n_token", [1, 2, 3, 7, 8, 13])
def test_block_256_words(n_token: int) -> None:
    x = random_x(n_token, 512)
    x[0, :256] = 0
    words = words_of(Activation.BLOCK_256, x)
    codes, scales = integer_blocks(Activation.BLOCK_256, x)
    sums_16 = codes.reshape(*codes.shape[:2], 16, 16).sum(axis=3, dtype=np.int32)
    sums_32 = sums_16[..., 0::2] + sums_16[..., 1::2]
    first = Block256
    assert np.array_equal(codes_in(words, 256), codes)
    assert np.array_equal(words[..., first.SCALE].view(np.float32), scales)
    assert np.array_equal(words[..., first.SUM_32_PAIRS : first.SUM_16_PAIRS], pairs(sums_32))
    assert np.array_equal(words[..., first.SUM_16_PAIRS : first.MINUS_128_SUM_16], pairs(sums_16))
    assert np.array_equal(words[..., first.MINUS_128_SUM_16 :], -128 * sums_16)


@pytest.mark.parametrize("n_col", [1, 4, 7, 133])
def test_float_words_are_padded_with_zeros(n_col: int) -> None:
    x = random_x(5, n_col)
    for kind, expected in (
        (Activation.FLOAT32, x),
        (Activation.FLOAT16, x.astype(np.float16).astype(np.float32)),
    ):
        words = words_of(kind, x).view(np.float32).reshape(5, -1)
        assert np.array_equal(words[:, :n_col], expected)
        assert not words[:, n_col:].any()


@pytest.mark.parametrize("kind", list(Activation), ids=lambda kind: kind.value)
def test_ranges_from_a_multiple_of_eight_pack_like_the_whole(kind: Activation) -> None:
    entry, x = kernel_for(TYPE_OF[kind]), random_x(13, 256)
    whole = pack_x(entry, x)
    apart = np.concatenate([pack_x(entry, x[:8]), pack_x(entry, x[8:])])
    assert np.array_equal(apart, whole)
    assert len(whole) == 13 * packed_activation_bytes(kind, 256, 1)


def test_rows_may_lie_apart() -> None:
    entry, wide = kernel_for(GGMLType.Q8_0), random_x(3, 96)
    assert np.array_equal(pack_x(entry, wide[:, :64]), pack_x(entry, wide[:, :64].copy()))
