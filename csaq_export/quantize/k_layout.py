"""Bytes of the 256-weight super-blocks Q2_K, Q3_K, Q4_K, Q5_K and Q6_K (`ggml-common.h`).

Codes count levels from the lowest (Q3_K: value + 4, Q6_K: value + 32).
"""

import torch

from csaq_export.quantize.bits import f16_bytes, f16_values, pack_bits, unpack_bits
from csaq_export.quantize.block_params import BlockParams

_STRIDE = 32
_Q3_SCALE_ZERO = 32


def _bytes(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.uint8)


def _offset_fields(params: BlockParams) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if params.dmin is None or params.mins is None:
        raise ValueError("this layout stores offsets, the parameters have none")
    return f16_bytes(params.dmin), _bytes(params.scales), _bytes(params.mins)


def _with_offset(
    d: torch.Tensor, dmin: torch.Tensor, scales: torch.Tensor, mins: torch.Tensor
) -> BlockParams:
    return BlockParams(f16_values(d), scales.int(), f16_values(dmin), mins.int())


def pack_q2_k(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 84]: 4-bit scales and mins, codes, d, dmin."""
    dmin, scales, mins = _offset_fields(params)
    return torch.cat(
        [scales | (mins << 4), pack_bits(codes, 2, _STRIDE), f16_bytes(params.d), dmin], dim=1
    )


def unpack_q2_k(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q2_k`."""
    sub, codes, d, dmin = blocks.split_with_sizes([16, 64, 2, 2], dim=1)
    return unpack_bits(codes, 2, _STRIDE), _with_offset(d, dmin, sub & 15, sub >> 4)


def pack_q3_k(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 110]: high bits, low bits, 6-bit scales, d."""
    sub = _bytes(params.scales + _Q3_SCALE_ZERO)
    scales = torch.cat([pack_bits(sub & 15, 4, 8), pack_bits(sub >> 4, 2, 4)], dim=1)
    high, low = pack_bits(codes >> 2, 1, _STRIDE), pack_bits(codes & 3, 2, _STRIDE)
    return torch.cat([high, low, scales, f16_bytes(params.d)], dim=1)


def unpack_q3_k(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q3_k`."""
    high, low, sub_low, sub_high, d = blocks.split_with_sizes([32, 64, 8, 4, 2], dim=1)
    codes = unpack_bits(low, 2, _STRIDE) | (unpack_bits(high, 1, _STRIDE) << 2)
    sub = unpack_bits(sub_low, 4, 8) | (unpack_bits(sub_high, 2, 4) << 4)
    return codes, BlockParams(f16_values(d), sub.int() - _Q3_SCALE_ZERO)


def _pack_6bit_pairs(scales: torch.Tensor, mins: torch.Tensor) -> torch.Tensor:
    """Eight 6-bit scales and mins in 12 bytes; the upper four give their high bits to the lower."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = mins[:, :4] | ((mins[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((mins[:, 4:] & 15) << 4)
    return torch.cat([first, second, third], dim=1)


def _unpack_6bit_pairs(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    first, second, third = packed.split_with_sizes([4, 4, 4], dim=1)
    scales = torch.cat([first & 63, (third & 15) | ((first >> 6) << 4)], dim=1)
    mins = torch.cat([second & 63, (third >> 4) | ((second >> 6) << 4)], dim=1)
    return scales, mins


def pack_q4_k(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 144]: d, dmin, 6-bit scales and mins, codes."""
    dmin, scales, mins = _offset_fields(params)
    sub = _pack_6bit_pairs(scales, mins)
    return torch.cat([f16_bytes(params.d), dmin, sub, pack_bits(codes, 4, _STRIDE)], dim=1)


def unpack_q4_k(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q4_k`."""
    d, dmin, sub, codes = blocks.split_with_sizes([2, 2, 12, 128], dim=1)
    return unpack_bits(codes, 4, _STRIDE), _with_offset(d, dmin, *_unpack_6bit_pairs(sub))


def pack_q5_k(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 176]: as Q4_K with fifth bits before the codes."""
    dmin, scales, mins = _offset_fields(params)
    sub = _pack_6bit_pairs(scales, mins)
    high, low = pack_bits(codes >> 4, 1, _STRIDE), pack_bits(codes & 15, 4, _STRIDE)
    return torch.cat([f16_bytes(params.d), dmin, sub, high, low], dim=1)


def unpack_q5_k(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q5_k`."""
    d, dmin, sub, high, low = blocks.split_with_sizes([2, 2, 12, 32, 128], dim=1)
    codes = unpack_bits(low, 4, _STRIDE) | (unpack_bits(high, 1, _STRIDE) << 4)
    return codes, _with_offset(d, dmin, *_unpack_6bit_pairs(sub))


def pack_q6_k(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 210]: low bits, high bits, int8 scales, d."""
    low, high = pack_bits(codes & 15, 4, 64), pack_bits(codes >> 4, 2, _STRIDE)
    scales = params.scales.to(torch.int8).view(torch.uint8)
    return torch.cat([low, high, scales, f16_bytes(params.d)], dim=1)


def unpack_q6_k(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q6_k`."""
    low, high, scales, d = blocks.split_with_sizes([128, 64, 16, 2], dim=1)
    codes = unpack_bits(low, 4, 64) | (unpack_bits(high, 2, _STRIDE) << 4)
    return codes, BlockParams(f16_values(d), scales.contiguous().view(torch.int8).int())
