"""A matrix as it goes into the file."""

from dataclasses import dataclass

from torch import Tensor

from csaq_export.quantize.decode import decode
from csaq_runtime.formats import LAYOUTS, GGMLType


@dataclass(frozen=True)
class Packed:
    """A rounded matrix: uint8 [n_row, row_bytes] of `type`."""

    type: GGMLType
    data: Tensor

    def weight(self) -> Tensor:
        """The weights as every reader of the file will see them, float32 [n_row, n_col]."""
        return decode(self.data, self.type)

    @property
    def n_col(self) -> int:
        """Weights per row."""
        layout = LAYOUTS[self.type]
        return int(self.data.shape[1]) // layout.type_size * layout.block_size
