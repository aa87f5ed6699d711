"""The key/value cache of one sequence, and which token ids it stands for.

Kernels write positions from `n_past` on (`kernels/attention.py` has the layout); a position
counts only once `extend` has named its id, so an interrupted step leaves nothing behind, and
`truncate` rolls back in constant time.
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.buffers import address
from csaq_runtime.errors import UsageError
from csaq_runtime.heads import head_pad, padded
from csaq_runtime.hparams import HParams
from csaq_runtime.kernels.cached import CACHE_FORMATS, CacheFormat


def cache_bytes(hparams: HParams, n_ctx: int, cache_type: str) -> int:
    """Bytes of keys and values for `n_ctx` positions; `cache_type` as in `CACHE_FORMATS`."""
    n_row = hparams.n_layer * hparams.n_head_kv * padded(n_ctx)
    return 2 * n_row * cache_format(cache_type).row_bytes(head_pad(hparams))


def cache_format(cache_type: str) -> CacheFormat:
    """The number format of that name; UsageError for one that does not exist."""
    if cache_type not in CACHE_FORMATS:
        raise UsageError(f"cache type {cache_type!r} is not one of {', '.join(CACHE_FORMATS)}")
    return CACHE_FORMATS[cache_type]


class KVCache:
    """Keys and values, bytes [n_layer, n_head_kv, padded n_ctx, row_bytes]; zeroed by the OS."""

    def __init__(self, hparams: HParams, n_ctx: int, cache_type: str) -> None:
        self.n_ctx = n_ctx
        self.format = cache_format(cache_type)
        self.row_bytes = self.format.row_bytes(head_pad(hparams))
        shape = (hparams.n_layer, hparams.n_head_kv, padded(n_ctx), self.row_bytes)
        self.keys: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.values: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.keys_address, self.values_address = address(self.keys), address(self.values)
        self._ids: list[int] = []

    @property
    def ids(self) -> Sequence[int]:
        """Ids of the positions held, oldest first."""
        return self._ids

    @property
    def n_past(self) -> int:
        """Positions held."""
        return len(self._ids)

    @property
    def head_bytes(self) -> int:
        """Bytes of one layer's keys (or values) of one head."""
        return self.keys.strides[1]

    def extend(self, ids: Sequence[int]) -> None:
        """Declare that the next positions have been written and hold `ids`."""
        if self.n_past + len(ids) > self.n_ctx:
            raise UsageError(f"{self.n_past + len(ids)} tokens exceed the context of {self.n_ctx}")
        self._ids.extend(ids)

    def truncate(self, n_past: int) -> None:
        """Forget all positions from `n_past` on; none is added if there are fewer."""
        if n_past < 0:
            raise ValueError(f"cannot keep {n_past} positions")
        del self._ids[n_past:]

    def common_prefix(self, ids: Sequence[int]) -> int:
        """How many leading ids are already held."""
        return common_prefix(self._ids, ids)

    def of_layer(self, index: int) -> "KVCache":
        """One layer's part of this cache: the same memory, the same ids."""
        part = copy(self)
        part.keys, part.values = self.keys[index, None], self.values[index, None]
        part.keys_address, part.values_address = address(part.keys), address(part.values)
        return part

    def copy_from(self, other: "KVCache", n: int) -> None:
        """Forget everything and take over the first `n` positions of a cache of the same shape."""
        if not 0 <= n <= other.n_past:
            raise ValueError(f"cannot copy {n} of {other.n_past} positions")
        # Keys lie in blocks of 16 positions; what the last block holds beyond `n` is not seen.
        rows = slice(0, padded(n))
        self._ids.clear()
        self.keys[:, :, rows], self.values[:, :, rows] = (
            other.keys[:, :, rows],
            other.values[:, :, rows],
        )
        self._ids.extend(other.ids[:n])


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading ids two sequences share; compares slices, which is quick."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
