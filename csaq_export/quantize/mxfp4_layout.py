"""MXFP4: the OCP microscaling format as ggml packs it.

A block is one exponent byte (E8M0) and 32 codes of E2M1, the sign in the highest bit. Levels
are doubled to be whole, so the scale is half of what the exponent says. Codes here count the
15 levels from the lowest, as those of other formats do; there are two zeros in the file.
"""

import torch

from csaq_export.quantize.bits import pack_bits, unpack_bits
from csaq_export.quantize.block_params import BlockParams

LEVELS = (-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12)
_ZERO, _HALF_BLOCK, _LOWEST_SIGNED = 7, 16, 15
# Of the exponent byte: 2^(e − 127), halved.
_BIAS, _LARGEST = 128, 254


def pack_mxfp4(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Codes uint8 [n, 32] of 0 … 14 → blocks uint8 [n, 17]."""
    exponent = torch.frexp(params.d).exponent - 1 + _BIAS
    exponent = torch.where(params.d > 0, exponent, 0).clamp(0, _LARGEST).to(torch.uint8)
    stored = torch.where(codes >= _ZERO, codes - _ZERO, _LOWEST_SIGNED - codes)
    return torch.cat([exponent[:, None], pack_bits(stored, 4, _HALF_BLOCK)], dim=1)


def unpack_mxfp4(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_mxfp4`; a negative zero becomes the other one."""
    stored = unpack_bits(blocks[:, 1:], 4, _HALF_BLOCK)
    codes = torch.where(stored < 8, stored + _ZERO, _LOWEST_SIGNED - stored)
    d = torch.ldexp(torch.ones(len(blocks), device=blocks.device), blocks[:, 0].int() - _BIAS)
    ones = torch.ones(len(blocks), 1, dtype=torch.int32, device=blocks.device)
    return codes.to(torch.uint8), BlockParams(d, ones)
