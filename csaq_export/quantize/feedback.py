"""Rounding with error feedback: what one column loses, the columns after it make up for.

GPTQ (arXiv 2210.17323) inside ggml's blocks: the scales of a block are fitted to its
weights as earlier columns have already changed them, with the importance that remains
once later columns can compensate, and then the block is rounded column by column. Exempt
weights are kept apart at full precision: they lose nothing and do not widen the scales.
"""

import torch
from torch import Tensor

from csaq_export.quantize.code_format import CODE_FORMATS
from csaq_export.quantize.coded import Coded, join
from csaq_export.quantize.exempt import Exempt, to_fit
from csaq_export.quantize.fit import fit, single
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
    return round_around(weight, ggml_type, compensation(curvature), None)[0]


def round_around(
    weight: Tensor, ggml_type: GGMLType, upper: Tensor, exempt: Exempt | None
) -> tuple[Coded, Tensor]:
    """As `round_with_feedback`, and the weights as feedback left them, float32 [n_row, n_col].

    `upper` is the curvature's `compensation`. Where `exempt` the weights left are what the
    caller must keep: the others were rounded as if those were stored exactly.
    """
    code_format = CODE_FORMATS[ggml_type]
    importance = torch.diagonal(upper).square().reciprocal()
    rest = weight.clone()
    blocks = []
    for start in range(0, weight.shape[1], code_format.block_size):
        here = slice(start, start + code_format.block_size)
        block, kept = rest[:, here], None if exempt is None else exempt.columns(here)
        values, weights = to_fit(block, importance[here], kept)
        params = single(fit(values.double(), code_format, weights.double()))
        coded = Coded(block.new_empty(block.shape, dtype=torch.uint8), params, ggml_type)
        errors, rest[:, here] = _round_block(block, coded, upper[here, here], kept)
        rest[:, here.stop :] -= errors @ upper[here, here.stop :]
        blocks.append(coded)
    return join(blocks), rest


def _round_block(
    block: Tensor, coded: Coded, upper: Tensor, exempt: Exempt | None
) -> tuple[Tensor, Tensor]:
    """Fill `coded.codes`; errors in units of U's diagonal, and the weights before rounding.

    Columns are kept as rows here: each step reads and writes contiguous memory.
    """
    columns = block.T.contiguous()
    errors = torch.empty_like(columns)
    scale, offset = coded.column_grid()
    kept = None if exempt is None else exempt.any().T.contiguous()
    for j in range(columns.shape[0]):
        shift = None if offset is None else offset[j]
        codes = nearest_codes(columns[j], scale[j], shift, coded.format)
        value = scale[j] * code_values(codes, coded.format)
        if shift is not None:
            value -= shift
        errors[j] = (columns[j] - value) / upper[j, j]
        if kept is not None:
            errors[j].masked_fill_(kept[j], 0.0)
        columns[j + 1 :] -= upper[j, j + 1 :, None] * errors[j]
        coded.codes[:, j] = codes
    return errors.T, columns.T
