"""A weight on its way: bytes of the source → finite float32 rows, a few rows at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType, dequantize

FLOAT_DTYPES = {
    GGMLType.F32: torch.float32,
    GGMLType.F16: torch.float16,
    GGMLType.BF16: torch.bfloat16,
}
RowReader = Callable[[int, int], NDArray[np.uint8]]
# 16 MiB of float32: large enough that encoders run at full speed, small beside any model.
CHUNK_WEIGHTS = 1 << 22


@dataclass(frozen=True)
class Weight:
    """One tensor of the model under its GGUF `name`, not yet read.

    `shape` is row-major; `type` is how the source stores it; `read(start, end)`
    gives the bytes of those rows, uint8 [end - start, row_bytes].
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLType
    read: RowReader

    @property
    def n_row(self) -> int:
        """Rows of a matrix; a vector is one row."""
        return prod(self.shape[:-1])

    @property
    def n_col(self) -> int:
        """Weights per row."""
        return self.shape[-1]

    def chunks(self) -> Iterator[slice]:
        """Consecutive row ranges of at most 16 MiB of float32 (one row where rows are larger)."""
        step = max(1, CHUNK_WEIGHTS // self.n_col)
        for start in range(0, self.n_row, step):
            yield slice(start, min(start + step, self.n_row))

    def float32(self, rows: slice) -> Tensor:
        """The rows, float32 [n, n_col]; ModelError naming the tensor if any is NaN or infinite."""
        data = self.read(rows.start, rows.stop)
        if self.type in FLOAT_DTYPES:
            values = torch.from_numpy(data).view(FLOAT_DTYPES[self.type]).float()
        else:
            values = torch.from_numpy(dequantize(data, self.type))
        if not bool(torch.isfinite(values).all()):
            raise ModelError(
                f"{self.name}: contains NaN or infinite weights",
                "the source is damaged; download it again or repair the training run",
            )
        return values


def from_values(name: str, values: Tensor) -> Weight:
    """A weight computed by the converter itself, float32 [n]."""
    data = values.float().contiguous().view(torch.uint8).numpy().reshape(1, -1)
    return Weight(name, tuple(values.shape), GGMLType.F32, lambda start, end: data[start:end])
