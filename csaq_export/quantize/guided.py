"""Weights + sensitivity → packed blocks: scale search, error feedback, coordinate descent."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.parallel import TURN
from csaq_export.quantize.descent import descend
from csaq_export.quantize.encode import check_input, encode
from csaq_export.quantize.feedback import compensation, round_around
from csaq_export.quantize.float_bytes import FLOAT_TYPES
from csaq_export.quantize.grid_feedback import encode_grid_around
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.sensitivity import Sensitivity
from csaq_runtime.formats import GGMLType, row_bytes

# In work at a time: on a CPU few enough rows for its caches (a column of all of them is moved
# at each step), elsewhere 256 MiB of float32, which only embeddings exceed.
CPU_ROWS, CHUNK_WEIGHTS = 1024, 1 << 26


@dataclass(frozen=True)
class Guide:
    """What rounds some rows: their indices int64 [n], H and its `compensation` [n_col, n_col]."""

    rows: Tensor
    curvature: Tensor
    upper: Tensor


def guides(sensitivity: Sensitivity, device: torch.device) -> Iterator[Guide]:
    """The Guides of all rows: the factors of the curvature, which serve any type."""
    for rows, curvature in sensitivity.groups():
        wanted = regular(curvature.to(device, torch.float32))
        yield Guide(rows, wanted, compensation(wanted))


def encode_guided(
    weight: Tensor, ggml_type: GGMLType, sensitivity: Sensitivity, n_sweep: int
) -> Tensor:
    """Bytes, uint8 [n_row, row_bytes], for float32 `weight` [n_row, n_col] on any device.

    `n_sweep` is the number of descent sweeps after the feedback pass. Float types are
    stored as they are; the codebook types have no descent. Raises what `encode` raises.
    """
    guided = () if ggml_type in FLOAT_TYPES else guides(sensitivity, weight.device)
    return encode_by(weight, ggml_type, guided, n_sweep)


def encode_by(weight: Tensor, ggml_type: GGMLType, guided: Iterable[Guide], n_sweep: int) -> Tensor:
    """`encode_guided` by factors that are known; `guided` together have all rows."""
    if ggml_type in FLOAT_TYPES:
        return encode(weight, ggml_type)
    check_input(weight, ggml_type, None)
    n_row, n_col = weight.shape
    n_byte = row_bytes(ggml_type, n_col)
    packed = torch.empty(n_row, n_byte, dtype=torch.uint8, device=weight.device)
    for guide in guided:
        step = rows_at_once(n_col, weight.device)
        for part in guide.rows.split(step):  # type: ignore[no-untyped-call]
            with TURN if takes_turns(ggml_type, len(part)) else nullcontext():
                packed[part] = _encode_rows(weight[part], ggml_type, guide, n_sweep)
    return packed


def takes_turns(ggml_type: GGMLType, n_row: int) -> bool:
    """Whether so few rows are rounded by one thread at a time, as operations are short.

    Those of a search through a codebook never are.
    """
    return n_row < CPU_ROWS and ggml_type not in GRID_FORMATS


def rows_at_once(n_col: int, device: torch.device) -> int:
    """Rows of `n_col` weights that are rounded together."""
    return CPU_ROWS if device.type == "cpu" else max(1, CHUNK_WEIGHTS // n_col)


def _encode_rows(weight: Tensor, ggml_type: GGMLType, guide: Guide, n_sweep: int) -> Tensor:
    if ggml_type in GRID_FORMATS:
        return encode_grid_around(weight, ggml_type, guide.upper, None)[0]
    coded, _ = round_around(weight, ggml_type, guide.upper, None)
    return descend(weight, coded, guide.curvature, n_sweep).packed()


def regular(curvature: Tensor) -> Tensor:
    """`curvature` scaled to a mean diagonal of 1; the identity where nothing was observed."""
    mean = torch.diagonal(curvature).mean()
    if not bool(mean > 0):
        return torch.eye(curvature.shape[0], dtype=curvature.dtype, device=curvature.device)
    return curvature / mean
