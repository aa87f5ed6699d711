"""A matrix as codes and scales: what rounding produces, refinement changes and packing takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CODE_FORMATS, CodeFormat
from csaq_export.quantize.rounding import code_values, dequantize_codes
from csaq_runtime.formats import LAYOUTS, GGMLType


@dataclass(frozen=True)
class Coded:
    """`codes` uint8 [n_row, n_col]; `params` of its blocks, row after row [n_row · n_block]."""

    codes: Tensor
    params: BlockParams
    type: GGMLType

    @property
    def format(self) -> CodeFormat:
        """How the type packs."""
        return CODE_FORMATS[self.type]

    @property
    def n_block(self) -> int:
        """Blocks per row."""
        return self.codes.shape[1] // self.format.block_size

    def weight(self) -> Tensor:
        """The weights, float32 [n_row, n_col], as every reader of the file will see them."""
        blocks = self.codes.reshape(-1, self.format.block_size)
        return dequantize_codes(blocks, self.params, self.format).reshape(self.codes.shape)

    def packed(self) -> Tensor:
        """The bytes, uint8 [n_row, row_bytes]."""
        blocks = self.codes.reshape(-1, self.format.block_size)
        return self.format.pack(blocks, self.params).reshape(self.codes.shape[0], -1)

    def levels(self) -> Tensor:
        """Level of every code, float32 [n_row, n_col]."""
        return code_values(self.codes, self.format)

    def grid(self) -> tuple[Tensor, Tensor | None]:
        """Scale and offset, float32 [n_row, n_col]: weight = scale·level − offset."""
        return self._spread(self.params.scale()), self._spread(self.params.offset())

    def column_grid(self) -> tuple[Tensor, Tensor | None]:
        """`grid` transposed to [n_col, n_row], contiguous."""
        scale, offset = self.grid()
        return scale.T.contiguous(), None if offset is None else offset.T.contiguous()

    def _spread(self, values: Tensor | None) -> Tensor:
        if values is None:
            return None  # type: ignore[return-value]
        spread = values.repeat_interleave(self.format.sub_size, 1)
        return spread.reshape(self.codes.shape)


def unpack(packed: Tensor, ggml_type: GGMLType) -> Coded:
    """Codes and scales of packed rows, uint8 [n_row, row_bytes]."""
    code_format = CODE_FORMATS[ggml_type]
    n_row = packed.shape[0]
    codes, params = code_format.unpack(packed.reshape(-1, LAYOUTS[ggml_type].type_size))
    return Coded(codes.reshape(n_row, -1), params, ggml_type)


def join(blocks: Sequence[Coded]) -> Coded:
    """Put matrices side by side."""
    n_row = blocks[0].codes.shape[0]

    def side_by_side(name: str) -> Tensor | None:
        parts = [getattr(block.params, name) for block in blocks]
        if parts[0] is None:
            return None
        shaped = [part.reshape(n_row, -1, *part.shape[1:]) for part in parts]
        return torch.cat(shaped, 1).flatten(0, 1)

    joined: dict[str, Any] = {name: side_by_side(name) for name in ("d", "scales", "dmin", "mins")}
    params = replace(blocks[0].params, **joined)
    return Coded(torch.cat([block.codes for block in blocks], 1), params, blocks[0].type)
