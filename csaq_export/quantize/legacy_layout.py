"""Bytes of 32-weight blocks with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL.

Field order from `ggml-common.h`: d, [m], [fifth bits], codes. Codes count levels
from the lowest, so Q8_0's code is its signed byte + 128.
"""

from collections.abc import Callable

import torch

from csaq_export.quantize.bits import f16_bytes, f16_values, pack_bits, unpack_bits
from csaq_export.quantize.block_params import BlockParams

Pack = Callable[[torch.Tensor, BlockParams], torch.Tensor]
Unpack = Callable[[torch.Tensor], tuple[torch.Tensor, BlockParams]]

_HALF_BLOCK = 16


def _head(params: BlockParams) -> list[torch.Tensor]:
    fields = [f16_bytes(params.d)]
    if params.dmin is not None:
        fields.append(f16_bytes(-params.dmin))
    return fields


def _params(head: torch.Tensor) -> BlockParams:
    ones = torch.ones(head.shape[0], 1, dtype=torch.int32, device=head.device)
    if head.shape[1] == 2:
        return BlockParams(f16_values(head), ones)
    return BlockParams(f16_values(head[:, :2]), ones, -f16_values(head[:, 2:4]), ones)


def pack_4bit(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Q4_0, Q4_1 and IQ4_NL: uint8 codes [n, 32] → blocks uint8 [n, 18 or 20]."""
    return torch.cat([*_head(params), pack_bits(codes, 4, _HALF_BLOCK)], dim=1)


def unpack_4bit(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_4bit`."""
    return unpack_bits(blocks[:, -16:], 4, _HALF_BLOCK), _params(blocks[:, :-16])


def pack_5bit(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Q5_0 and Q5_1: uint8 codes [n, 32] → blocks uint8 [n, 22 or 24]."""
    high, low = pack_bits(codes >> 4, 1, 1), pack_bits(codes & 15, 4, _HALF_BLOCK)
    return torch.cat([*_head(params), high, low], dim=1)


def unpack_5bit(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_5bit`."""
    low = unpack_bits(blocks[:, -16:], 4, _HALF_BLOCK)
    high = unpack_bits(blocks[:, -20:-16], 1, 1)
    return low | (high << 4), _params(blocks[:, :-20])


def pack_q8_0(codes: torch.Tensor, params: BlockParams) -> torch.Tensor:
    """Q8_0: uint8 codes [n, 32] (value + 128) → blocks uint8 [n, 34]."""
    return torch.cat([f16_bytes(params.d), codes - 128], dim=1)


def unpack_q8_0(blocks: torch.Tensor) -> tuple[torch.Tensor, BlockParams]:
    """Undo `pack_q8_0`."""
    return blocks[:, 2:] + 128, _params(blocks[:, :2])
