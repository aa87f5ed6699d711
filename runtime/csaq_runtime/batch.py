"""Tokens of several sequences → the rows and tiles of one step (`ROW`, `TILE` in `kernels/record`).

Tokens whose logits are wanted come last, so that the others can leave the last layer early.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csaq_runtime.cache import KVCache
from csaq_runtime.kernels.record import ROW, TILE


@dataclass(frozen=True)
class Span:
    """Ids to append to one sequence; logits are wanted after the last `n_output` of them."""

    cache: KVCache
    ids: Sequence[int]
    n_output: int


class BatchTable:
    """Where each token of a batch stands in its sequence, and which tokens attend together.

    After `fill`: `ids` by row, `n_tile`, and from which row (`first_output`) and tile
    (`first_tile`) on logits are wanted. `n_together` tokens of one sequence make a tile.
    """

    def __init__(self, n_batch: int, n_together: int) -> None:
        self.rows, self.tiles = np.zeros(n_batch, ROW), np.zeros(n_batch, TILE)
        self._n_together = n_together
        self.ids: list[int] = []
        self.n_tile = self.first_output = self.first_tile = 0

    def fill(self, spans: Sequence[Span]) -> None:
        """Describe the batch that appends `spans`, each of a sequence of its own."""
        self.ids, self.n_tile = [], 0
        for span in spans:
            self._add(span, 0, len(span.ids) - span.n_output)
        self.first_output, self.first_tile = len(self.ids), self.n_tile
        for span in spans:
            self._add(span, len(span.ids) - span.n_output, len(span.ids))

    def _add(self, span: Span, start: int, stop: int) -> None:
        """Add tokens `start` … `stop` − 1 of a span."""
        if start == stop:
            return
        row, position = len(self.ids), span.cache.n_past + start
        rows = self.rows[row : row + stop - start]
        rows["position"] = position if stop == start + 1 else np.arange(stop - start) + position
        rows["keys"], rows["values"] = span.cache.keys_address, span.cache.values_address
        self.ids += span.ids[start:stop]
        for first in range(row, len(self.ids), self._n_together):
            self.tiles[self.n_tile] = first, min(self._n_together, len(self.ids) - first)
            self.n_tile += 1
