"""Bytes of IQ4_XS super-blocks (`ggml-common.h`): d, high scale bits, low scale bits, codes."""

import torch

from csaq_export.quantize.bits import f16_bytes, f16_values, pack_bits, unpack_bits
from csaq_export.quantize.block_params import BlockParams

_SCALE_ZERO = 32
_HALF_SUB_BLOCK = 16


def pack_iq4_xs(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 256] → blocks uint8 [n, 136]."""
    sub = (params.scales + _SCALE_ZERO).to(torch.uint8)
    high, low = pack_bits(sub >> 4, 2, 1), pack_bits(sub & 15, 4, 1)
    return torch.cat([f16_bytes(params.d), high, low, pack_bits(codes, 4, _HALF_SUB_BLOCK)], dim=1)


def unpack_iq4_xs(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_iq4_xs`."""
    d, high, low, codes = blocks.split_with_sizes([2, 2, 4, 128], dim=1)
    sub = unpack_bits(low, 4, 1) | (unpack_bits(high, 2, 1) << 4)
    params = BlockParams(f16_values(d), sub.int() - _SCALE_ZERO)
    return unpack_bits(codes, 4, _HALF_SUB_BLOCK), params
