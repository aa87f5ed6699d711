"""Packed ggml blocks → float32 weights on any device, bit-equal to `csaq_runtime.formats`."""

import torch

from csaq_export.quantize.code_format import CODE_FORMATS
from csaq_export.quantize.float_bytes import FLOAT_TYPES, decode_float
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.quantize.grid_rounding import dequantize_grid
from csaq_export.quantize.rounding import dequantize_codes
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import LAYOUTS, GGMLType

# Weights decoded at a time: what lies between bytes and weights takes more than either.
_CHUNK = 1 << 22


def decode(blocks: torch.Tensor, ggml_type: GGMLType) -> torch.Tensor:
    """Decode uint8 [n_row, row_bytes] into float32 [n_row, n_col].

    Raises ModelError for types without a decoder here and rows that end inside a block.
    """
    if ggml_type not in {*FLOAT_TYPES, *CODE_FORMATS, *GRID_FORMATS}:
        raise ModelError(f"there is no decoder for {ggml_type.name}")
    type_size = LAYOUTS[ggml_type].type_size
    if blocks.shape[1] % type_size:
        raise ModelError(f"rows of {blocks.shape[1]} bytes end inside a {ggml_type.name} block")
    n_row, n_col = blocks.shape[0], blocks.shape[1] // type_size * LAYOUTS[ggml_type].block_size
    weight, step = blocks.new_empty(n_row, n_col, dtype=torch.float32), _CHUNK // max(1, n_col)
    for start in range(0, n_row, max(1, step)):
        here = slice(start, start + max(1, step))
        weight[here] = _decoded(blocks[here], ggml_type)
    return weight


def _decoded(blocks: torch.Tensor, ggml_type: GGMLType) -> torch.Tensor:
    if ggml_type in FLOAT_TYPES:
        return decode_float(blocks, ggml_type)
    type_size = LAYOUTS[ggml_type].type_size
    packed = blocks.reshape(-1, type_size)
    if ggml_type in GRID_FORMATS:
        grid_codes, params = GRID_FORMATS[ggml_type].unpack(packed)
        weight = dequantize_grid(grid_codes, params, GRID_FORMATS[ggml_type])
    else:
        codes, params = CODE_FORMATS[ggml_type].unpack(packed)
        weight = dequantize_codes(codes, params, CODE_FORMATS[ggml_type])
    return weight.reshape(blocks.shape[0], -1)
