"""A matrix of rows with 16, 8, 4 or 2 bits each, truly packed: blocks by tier, row index."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.hf.tier import TierShape
from csaq_export.quantize.packed import Packed


@dataclass(frozen=True)
class QuantizedWeight:
    """`tiers` from 16 bits down, `packed` their blocks, `rows` the place of every stored row.

    `rows`: int32 [n_row], the index in the matrix of each stored row, tier after tier. The
    bytes are those that the rows layout of a GGUF holds.
    """

    tiers: tuple[TierShape, ...]
    packed: tuple[Packed, ...]
    rows: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        return len(self.rows), self.packed[0].n_col

    @property
    def n_bytes(self) -> int:
        """All bytes: packed rows with their scales, and the row index."""
        return self.rows.nbytes + sum(part.data.nbytes for part in self.packed)

    @property
    def bits(self) -> float:
        """Bits per weight, everything counted."""
        n_row, n_col = self.shape
        return 8 * self.n_bytes / (n_row * n_col)

    def parts(self) -> list[tuple[TierShape, Packed, Tensor]]:
        """Each tier with its blocks and the indices int64 [n] of its rows."""
        ends = torch.tensor([tier.n_row for tier in self.tiers]).cumsum(0)[:-1]
        places = self.rows.long().tensor_split(ends)
        return list(zip(self.tiers, self.packed, places, strict=True))

    def element_size_bytes(self) -> float:
        """Bytes per weight, everything counted."""
        return self.bits / 8

    def compression_ratio(self) -> float:
        """How much smaller than float32 it is."""
        return 32 / self.bits

    def row_bits(self) -> Tensor:
        """The width of every row, int32 [n_row]."""
        widths = [torch.full((tier.n_row,), tier.bits, dtype=torch.int32) for tier in self.tiers]
        stored = torch.cat(widths).to(self.rows.device)
        return in_place(stored[None], self.rows)[0]

    def dequantize(self) -> Tensor:
        """The weights, float32 [n_row, n_col]."""
        stored = torch.cat([part.weight() for part in self.packed])
        return in_place(stored.T, self.rows).T


def in_place(stored: Tensor, rows: Tensor) -> Tensor:
    """What belongs to stored rows [..., n_row] → in the order of the matrix."""
    return torch.empty_like(stored).index_copy_(-1, rows.long(), stored)


def pack_rows(
    parts: Sequence[tuple[int, Packed, Tensor]],
) -> QuantizedWeight:
    """The matrix made of `parts`: bits, blocks, and the indices int64 [n] of their rows."""
    ordered = sorted((part for part in parts if len(part[2])), key=lambda part: -part[0])
    tiers = tuple(TierShape(bits, packed.type, len(rows)) for bits, packed, rows in ordered)
    index = torch.cat([rows for _, _, rows in ordered]).to(torch.int32)
    return QuantizedWeight(tiers, tuple(packed for _, packed, _ in ordered), index)
