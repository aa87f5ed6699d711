"""Rounding with error feedback: what one column loses, the columns after it make up for.

GPTQ (arXiv 2210.17323) inside ggml's blocks: the scales of a block are fitted to its
weights as earlier columns have already changed them, with the importance that remains
once later columns can compensate, and then the block is rounded column by column.
"""

import torch
from torch import Tensor

from csaq_export.quantize.code_format import CODE_FORMATS, CodeFormat
from csaq_export.quantize.coded import Coded, join
from csaq_export.quantize.fit import fit
from csaq_export.quantize.rounding import code_values, nearest_codes
from csaq_runtime.formats import GGMLType

# Added to the diagonal, as a share of its mean: bounds how far errors are carried on.
DAMPING = 0.01


def compensation(curvature: Tensor) -> Tensor:
    """Upper Cholesky factor U of the inverse of `curvature` [n, n], float32; UᵀU = H⁻¹.

    Columns that no input ever reached get the mean diagonal, so that they stay finite.
    """
    matrix = curvature.to(torch.float64, copy=True)
    diagonal = matrix.diagonal()
    mean = diagonal.mean().clamp(min=torch.finfo(torch.float32).tiny)
    diagonal[diagonal <= 0] = mean
    diagonal += DAMPING * mean
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper.float()


def round_with_feedback(weight: Tensor, ggml_type: GGMLType, curvature: Tensor) -> Coded:
    """Codes and scales for float32 `weight` [n_row, n_col] that keep Δw·H·Δwᵀ small.

    `curvature` is H, float32 [n_col, n_col]. Only types of CODE_FORMATS.
    """
    code_format = CODE_FORMATS[ggml_type]
    upper = compensation(curvature)
    importance = torch.diagonal(upper).square().reciprocal()
    rest = weight.clone()
    blocks = []
    for start in range(0, weight.shape[1], code_format.block_size):
        here = slice(start, start + code_format.block_size)
        block = rest[:, here]
        params = fit(block, code_format, importance[here].expand(block.shape))
        coded = Coded(block.new_empty(block.shape, dtype=torch.uint8), params, ggml_type)
        errors = _round_block(block, coded, code_format, upper[here, here])
        rest[:, here.stop :] -= errors @ upper[here, here.stop :]
        blocks.append(coded)
    return join(blocks)


def _round_block(block: Tensor, coded: Coded, code_format: CodeFormat, upper: Tensor) -> Tensor:
    """Fill `coded.codes`; `block` changes on the way. Returns the errors in units of U's diagonal.

    Columns are kept as rows here: each step reads and writes contiguous memory.
    """
    columns = block.T.contiguous()
    errors = torch.empty_like(columns)
    scale, offset = coded.column_grid()
    for j in range(columns.shape[0]):
        shift = None if offset is None else offset[j]
        codes = nearest_codes(columns[j], scale[j], shift, code_format)
        value = scale[j] * code_values(codes, code_format)
        if shift is not None:
            value -= shift
        errors[j] = (columns[j] - value) / upper[j, j]
        columns[j + 1 :] -= upper[j, j + 1 :, None] * errors[j]
        coded.codes[:, j] = codes
    return errors.T
