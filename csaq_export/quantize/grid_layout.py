"""Bytes of the 256-weight super-blocks IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S (`ggml-common.h`).

Vectors of magnitudes are stored as indices into a codebook; signs apart from them, eight
weights to a byte or, where their number of minus signs is even, to seven bits.
"""

from dataclasses import dataclass

import torch

from csaq_export.quantize.bits import f16_bytes, f16_values, pack_bits, unpack_bits
from csaq_export.quantize.block_params import BlockParams


@dataclass(frozen=True)
class GridCodes:
    """Codes of n super-blocks: codebook `index` [n, 256 / width], `negative` 0 or 1 [n, 256]."""

    index: torch.Tensor
    negative: torch.Tensor


Unpacked = tuple[GridCodes, BlockParams]


def _low_byte(values: torch.Tensor) -> torch.Tensor:
    return (values & 255).to(torch.uint8)


def _sign_words(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Per 32 weights four 7-bit sign fields and the 4-bit scale, as 4 bytes: uint8 [n, 32]."""
    seven = (pack_bits(codes.negative, 1, 1) & 127).to(torch.int64).reshape(-1, 8, 4)
    shifts = torch.tensor([0, 7, 14, 21], device=seven.device)
    words = (seven << shifts).sum(-1) | (params.scales.to(torch.int64) << 28)
    parts = [_low_byte(words >> shift) for shift in (0, 8, 16, 24)]
    return torch.stack(parts, dim=-1).reshape(words.shape[0], -1)


def _unpack_sign_words(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Undo `_sign_words`: negative uint8 [n, 256] and scales int32 [n, 8]."""
    parts = packed.reshape(packed.shape[0], -1, 4).to(torch.int64)
    words = torch.stack([parts[:, :, place] << (8 * place) for place in range(4)]).sum(0)
    shifts = torch.tensor([0, 7, 14, 21], device=packed.device)
    seven = (words[:, :, None] >> shifts) & 127
    return _even_signs(seven.reshape(packed.shape[0], -1)), (words >> 28).int()


def _even_signs(seven: torch.Tensor) -> torch.Tensor:
    """Seven sign bits per eight weights → all eight, the last making the minus signs even."""
    bits = unpack_bits(seven.to(torch.uint8), 1, 1).reshape(seven.shape[0], -1, 8)
    last = bits[:, :, :7].sum(-1, keepdim=True) & 1
    return torch.cat([bits[:, :, :7], last.to(torch.uint8)], dim=-1).reshape(seven.shape[0], -1)


def pack_iq2_xxs(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Blocks uint8 [n, 66]: d, then per 32 weights four indices and the sign word."""
    n = codes.index.shape[0]
    words = _sign_words(codes, params).reshape(n, 8, 4)
    runs = torch.cat([_low_byte(codes.index).reshape(n, 8, 4), words], dim=-1)
    return torch.cat([f16_bytes(params.d), runs.reshape(n, -1)], dim=1)


def unpack_iq2_xxs(blocks: torch.Tensor) -> Unpacked:
    """Undo `pack_iq2_xxs`."""
    n = blocks.shape[0]
    runs = blocks[:, 2:].reshape(n, 8, 8)
    negative, scales = _unpack_sign_words(runs[:, :, 4:].reshape(n, -1))
    index = runs[:, :, :4].reshape(n, -1).int()
    return GridCodes(index, negative), BlockParams(f16_values(blocks[:, :2]), scales)


def pack_iq2_xs(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Blocks uint8 [n, 74]: d, 16-bit words of index and seven signs, 4-bit scales."""
    words = codes.index | ((pack_bits(codes.negative, 1, 1) & 127).int() << 9)
    pairs = torch.stack([_low_byte(words), _low_byte(words >> 8)], dim=-1)
    scales = pack_bits(params.scales.to(torch.uint8), 4, 1)
    return torch.cat([f16_bytes(params.d), pairs.reshape(words.shape[0], -1), scales], dim=1)


def unpack_iq2_xs(blocks: torch.Tensor) -> Unpacked:
    """Undo `pack_iq2_xs`."""
    d, pairs, scales = blocks.split_with_sizes([2, 64, 8], dim=1)
    words = pairs[:, 0::2].int() | (pairs[:, 1::2].int() << 8)
    codes = GridCodes(words & 511, _even_signs(words >> 9))
    return codes, BlockParams(f16_values(d), unpack_bits(scales, 4, 1).int())


def pack_iq2_s(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Blocks uint8 [n, 82]: d, low index bytes, signs, high index bits, 4-bit scales."""
    high = pack_bits(_low_byte(codes.index >> 8), 2, 1)
    signs, scales = pack_bits(codes.negative, 1, 1), pack_bits(_low_byte(params.scales), 4, 1)
    return torch.cat([f16_bytes(params.d), _low_byte(codes.index), signs, high, scales], dim=1)


def unpack_iq2_s(blocks: torch.Tensor) -> Unpacked:
    """Undo `pack_iq2_s`."""
    d, low, signs, high, scales = blocks.split_with_sizes([2, 32, 32, 8, 8], dim=1)
    codes = GridCodes(low.int() | (unpack_bits(high, 2, 1).int() << 8), unpack_bits(signs, 1, 1))
    return codes, BlockParams(f16_values(d), unpack_bits(scales, 4, 1).int())


def pack_iq3_xxs(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Blocks uint8 [n, 98]: d, indices, sign words."""
    return torch.cat(
        [f16_bytes(params.d), _low_byte(codes.index), _sign_words(codes, params)], dim=1
    )


def unpack_iq3_xxs(blocks: torch.Tensor) -> Unpacked:
    """Undo `pack_iq3_xxs`."""
    d, index, words = blocks.split_with_sizes([2, 64, 32], dim=1)
    negative, scales = _unpack_sign_words(words)
    return GridCodes(index.int(), negative), BlockParams(f16_values(d), scales)


def pack_iq3_s(codes: GridCodes, params: BlockParams) -> torch.Tensor:
    """Blocks uint8 [n, 110]: d, low index bytes, high index bits, signs, 4-bit scales."""
    high = pack_bits(_low_byte(codes.index >> 8), 1, 1)
    signs, scales = pack_bits(codes.negative, 1, 1), pack_bits(_low_byte(params.scales), 4, 1)
    return torch.cat([f16_bytes(params.d), _low_byte(codes.index), high, signs, scales], dim=1)


def unpack_iq3_s(blocks: torch.Tensor) -> Unpacked:
    """Undo `pack_iq3_s`."""
    d, low, high, signs, scales = blocks.split_with_sizes([2, 64, 8, 32, 4], dim=1)
    codes = GridCodes(low.int() | (unpack_bits(high, 1, 1).int() << 8), unpack_bits(signs, 1, 1))
    return codes, BlockParams(f16_values(d), unpack_bits(scales, 4, 1).int())
