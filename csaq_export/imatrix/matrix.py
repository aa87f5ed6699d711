"""What an imatrix file says: how strongly each input of each matrix was driven by some text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import ModelError


@dataclass(frozen=True)
class Entry:
    """`sums` float32 [n_col]: Σx² of every input over `count` tokens (legacy files: calls)."""

    sums: NDArray[np.float32]
    count: float

    def means(self) -> NDArray[np.float32]:
        """Mean x² per input, float32 [n_col]; ones where nothing was counted, as in llama.cpp."""
        if self.count == 0:
            return np.ones_like(self.sums)
        return self.sums / np.float32(self.count)


@dataclass(frozen=True)
class Imatrix:
    """`entries` by GGUF tensor name; made from `chunk_count` windows of `chunk_size` tokens.

    Legacy files do not say the window's size, 0 then.
    """

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0


def check_entry(where: str, name: str, entry: Entry) -> None:
    """ModelError naming file and tensor unless all numbers are finite and not negative."""
    for what, values in (("sums", entry.sums), ("count", np.array([entry.count]))):
        if not np.isfinite(values).all():
            raise ModelError(f"{where}: {name}: NaN or infinite {what}")
        if (values < 0).any():
            raise ModelError(f"{where}: {name}: negative {what}")
