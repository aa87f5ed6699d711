"""Packing and unpacking are inverse, and decoding equals the reference bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csaq_export.quantize import CODE_FORMATS, BlockParams, decode
from csaq_export.quantize.bits import pack_bits, unpack_bits
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.quantize.grid_layout import GridCodes
from csaq_runtime.formats import LAYOUTS, GGMLType, dequantize

TYPES = sorted(CODE_FORMATS, key=lambda ggml_type: ggml_type.name)

GRIDS = sorted(GRID_FORMATS, key=lambda ggml_type: ggml_type.name)


def random_params(ggml_type: GGMLType, n: int, rng: np.random.Generator) -> BlockParams:
    code_format = CODE_FORMATS[ggml_type]

    def factors() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(n).astype(np.float16).astype(np.float32))

    def integers(span: tuple[int, int]) -> torch.Tensor:
        values = rng.integers(span[0], span[1] + 1, (n, code_format.n_sub))
        return torch.from_numpy(values.astype(np.int32))

    if code_format.power_of_two:
        powers = 2.0 ** rng.integers(-120, 120, n).astype(np.float32)
        return BlockParams(torch.from_numpy(powers), integers((1, 1)))
    if code_format.min_range is None:
        return BlockParams(factors(), integers(code_format.scale_range))
    scales, mins = integers(code_format.scale_range), integers(code_format.min_range)
    return BlockParams(factors(), scales, factors(), mins)


@settings(deadline=None, max_examples=25)
@given(
    bits=st.sampled_from([1, 2, 4]),
    stride=st.sampled_from([1, 4, 16, 32]),
    seed=st.integers(0, 2**32 - 1),
)
def test_bit_fields_survive_packing(bits: int, stride: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(0, 1 << bits, (3, 256), np.uint8))
    packed = pack_bits(codes, bits, stride)
    assert packed.shape == (3, 256 * bits // 8)
    assert torch.equal(unpack_bits(packed, bits, stride), codes)


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda ggml_type: ggml_type.name)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_and_parameters_survive_packing(ggml_type: GGMLType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    code_format = CODE_FORMATS[ggml_type]
    shape = (4, code_format.block_size)
    codes = torch.from_numpy(rng.integers(0, len(code_format.levels), shape, np.uint8))
    params = random_params(ggml_type, 4, rng)
    blocks = code_format.pack(codes, params)
    assert blocks.shape == (4, LAYOUTS[ggml_type].type_size)
    got_codes, got = code_format.unpack(blocks)
    assert torch.equal(got_codes, codes)
    assert torch.equal(got.scale(), params.scale())
    offset, got_offset = params.offset(), got.offset()
    assert (offset is None) == (got_offset is None)
    assert offset is None or torch.equal(got_offset, offset)


@pytest.mark.parametrize("ggml_type", GRIDS, ids=lambda ggml_type: ggml_type.name)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_grid_codes_and_parameters_survive_packing(ggml_type: GGMLType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid_format = GRID_FORMATS[ggml_type]
    n_vector, width = grid_format.magnitudes(torch.device("cpu")).shape
    negative = rng.integers(0, 2, (4, 32, 8), np.uint8)
    if grid_format.even_signs:
        negative[:, :, 7] = negative[:, :, :7].sum(-1) & 1
    index = torch.from_numpy(rng.integers(0, n_vector, (4, 256 // width)).astype(np.int32))
    codes = GridCodes(index, torch.from_numpy(negative.reshape(4, 256)))
    d = torch.from_numpy(rng.standard_normal(4).astype(np.float16).astype(np.float32))
    scales = torch.from_numpy(rng.integers(0, 16, (4, grid_format.n_sub)).astype(np.int32))
    blocks = grid_format.pack(codes, BlockParams(d, scales))
    assert blocks.shape == (4, LAYOUTS[ggml_type].type_size)
    got, params = grid_format.unpack(blocks)
    assert torch.equal(got.index, codes.index)
    assert torch.equal(got.negative, codes.negative)
    assert torch.equal(params.d, d)
    assert torch.equal(params.scales, scales)


@pytest.mark.parametrize("ggml_type", TYPES + GRIDS, ids=lambda ggml_type: ggml_type.name)
def test_any_bytes_decode_as_the_reference_does(ggml_type: GGMLType) -> None:
    rng = np.random.default_rng(5)
    blocks = rng.integers(0, 256, (64, 3 * LAYOUTS[ggml_type].type_size), np.uint8)
    with np.errstate(invalid="ignore"):
        peer = dequantize(blocks, ggml_type)
    ours = decode(torch.from_numpy(blocks), ggml_type).numpy()
    number = ~np.isnan(peer)
    assert np.array_equal(np.isnan(ours), ~number)
    assert np.array_equal(ours[number].view(np.int32), peer[number].view(np.int32))
