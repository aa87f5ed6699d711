"""Bit fields of ggml blocks: codes (one per byte) ↔ packed bytes, and half-precision scales.

Everything here is a pure rearrangement of integers on any device; the layouts that
combine these fields into blocks are in `legacy_layout`, `k_layout` and `iq4_layout`.
"""

import torch

F16_MAX = 65504.0


def pack_bits(codes: torch.Tensor, bits: int, stride: int) -> torch.Tensor:
    """Pack uint8 `codes` [n, m] below 2**bits into bytes [n, m * bits / 8].

    Neighbours in a byte lie `stride` codes apart: byte j of a run of `stride`
    bytes holds codes j, j + stride, j + 2·stride, … from its lowest bits up.
    """
    ways = 8 // bits
    groups = codes.reshape(codes.shape[0], -1, ways, stride)
    packed = groups[:, :, 0]
    for way in range(1, ways):
        packed = packed | (groups[:, :, way] << (bits * way))
    return packed.reshape(codes.shape[0], -1)


def unpack_bits(packed: torch.Tensor, bits: int, stride: int) -> torch.Tensor:
    """Undo `pack_bits`: bytes [n, m * bits / 8] → uint8 codes [n, m]."""
    runs = packed.reshape(packed.shape[0], -1, 1, stride)
    fields = torch.cat([runs >> shift for shift in range(0, 8, bits)], dim=2)
    return (fields & ((1 << bits) - 1)).reshape(packed.shape[0], -1)


def f16_round(values: torch.Tensor) -> torch.Tensor:
    """Float32 values as half precision would store them, saturating instead of overflowing."""
    return values.clamp(-F16_MAX, F16_MAX).to(torch.float16).to(torch.float32)


def f16_bytes(values: torch.Tensor) -> torch.Tensor:
    """Float32 [n] → the two little-endian bytes of their half-precision values, uint8 [n, 2]."""
    halves = values.clamp(-F16_MAX, F16_MAX).to(torch.float16)
    return halves.reshape(-1, 1).view(torch.uint8)


def f16_values(packed: torch.Tensor) -> torch.Tensor:
    """Undo `f16_bytes`: uint8 [n, 2] → float32 [n]."""
    return packed.contiguous().view(torch.float16).to(torch.float32).reshape(-1)
