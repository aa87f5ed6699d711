"""Rows of a tiered matrix by their original index: the embedding of a rows file."""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats import dequantize
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.rows.tiers import Tiers


class TieredLookup:
    """Reads rows from the file when they are asked for, so it must stay open."""

    def __init__(self, file: GGUFFile, tiers: Tiers) -> None:
        self._file, self._tensors = file, tiers.tensors
        n_row, self._n_col = len(tiers.rows), tiers.tensors[0].n_col
        self._tier = np.zeros(n_row, np.int64)
        self._place = np.zeros(n_row, np.int64)
        for number, (_, rows) in enumerate(tiers.parts()):
            self._tier[rows], self._place[rows] = number, np.arange(len(rows))

    def embed(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows float32 [n, n_col] of valid ids [n]."""
        out = np.empty((len(ids), self._n_col), np.float32)
        for number, info in enumerate(self._tensors):
            here = self._tier[ids] == number
            if here.any():
                rows = self._file.rows(info.name, self._place[ids[here]])
                out[here] = dequantize(rows, info.type)
        return out
