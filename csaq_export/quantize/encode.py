"""Weights → packed ggml blocks: checks the input, then fits, rounds and packs it in row chunks."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from csaq_export.quantize.code_format import CODE_FORMATS
from csaq_export.quantize.fit import fit
from csaq_export.quantize.float_bytes import FLOAT_TYPES, encode_float
from csaq_export.quantize.grid_fit import fit_grid
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_export.quantize.grid_rounding import round_grid
from csaq_export.quantize.legacy import PLAIN_TYPES, encode_plain
from csaq_export.quantize.rounding import round_codes
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes

ENCODABLE = frozenset({*FLOAT_TYPES, *CODE_FORMATS, *GRID_FORMATS})

# Weights in work at a time: small enough for the caches, which the search passes over often.
CHUNK = 1 << 18
_DEVICE_CHUNK = 1 << 24


def encode(
    weight: torch.Tensor, ggml_type: GGMLType, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Encode float32 `weight` [n_row, n_col] as uint8 [n_row, row_bytes], on its device.

    `importance` (float32 [n_col] or [n_row, n_col], ≥ 0; e.g. an imatrix) weighs the
    squared errors; without it all weights count alike, except that Q4_0, Q4_1, Q5_0,
    Q5_1 and Q8_0 are then rounded exactly as gguf-py and llama.cpp do.
    Raises ModelError for NaN or infinite weights or importance, shapes that do not
    match and types without an encoder.
    """
    check_input(weight, ggml_type, importance)
    # Grad mode does not reach worker threads; detached weights need none.
    weight = weight.detach()
    n_byte = row_bytes(ggml_type, weight.shape[1])
    out = torch.empty(weight.shape[0], n_byte, dtype=torch.uint8, device=weight.device)
    chunk = CHUNK if weight.device.type == "cpu" else _DEVICE_CHUNK
    n_row_chunk = max(1, chunk // max(1, weight.shape[1]))
    starts = range(0, weight.shape[0], n_row_chunk)

    def encode_chunk(start: int) -> None:
        rows = slice(start, start + n_row_chunk)
        counts = importance
        if counts is not None and counts.dim() == 2:
            counts = counts[rows]
        out[rows] = _encode_rows(weight[rows].to(torch.float32), ggml_type, counts)

    _run(encode_chunk, starts, weight.device)
    return out


def _run(work: Callable[[int], None], starts: range, device: torch.device) -> None:
    """Work through the chunks; on a CPU a thread per chunk, as threads inside small ops stall."""
    if device.type != "cpu":
        for start in starts:
            work(start)
        return
    n_thread = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_thread, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, starts))
    finally:
        torch.set_num_threads(n_thread)


def _encode_rows(
    weight: torch.Tensor, ggml_type: GGMLType, importance: torch.Tensor | None
) -> torch.Tensor:
    if ggml_type in FLOAT_TYPES:
        return encode_float(weight, ggml_type)
    block_size = LAYOUTS[ggml_type].block_size
    blocks = weight.reshape(-1, block_size)
    if importance is None and ggml_type in PLAIN_TYPES:
        packed = encode_plain(blocks, ggml_type)
    else:
        if importance is not None:
            importance = importance.to(weight).expand(weight.shape).reshape(-1, block_size)
        packed = _encode_blocks(blocks, ggml_type, importance)
    return packed.reshape(weight.shape[0], -1)


def _encode_blocks(
    blocks: torch.Tensor, ggml_type: GGMLType, importance: torch.Tensor | None
) -> torch.Tensor:
    if ggml_type in GRID_FORMATS:
        grid_format = GRID_FORMATS[ggml_type]
        params, data = fit_grid(blocks, grid_format, importance)
        return grid_format.pack(round_grid(data, params, grid_format), params)
    code_format = CODE_FORMATS[ggml_type]
    params = fit(blocks, code_format, importance)
    return code_format.pack(round_codes(blocks, params, code_format), params)


def check_input(weight: torch.Tensor, ggml_type: GGMLType, importance: torch.Tensor | None) -> None:
    """Raise the ModelError that `encode` promises."""
    if ggml_type not in ENCODABLE:
        raise ModelError(f"there is no encoder for {ggml_type.name}")
    n_row, n_col = weight.shape
    if n_col % LAYOUTS[ggml_type].block_size:
        raise ModelError(
            f"rows of {n_col} weights do not divide into {ggml_type.name} blocks of "
            f"{LAYOUTS[ggml_type].block_size}"
        )
    _check_finite(weight, "weights")
    if importance is None:
        return
    if importance.shape not in ((n_col,), (n_row, n_col)):
        shape = tuple(importance.shape)
        raise ModelError(f"importance of shape {shape} for weights of shape {(n_row, n_col)}")
    _check_finite(importance.reshape(-1, n_col), "importance")
    if bool((importance < 0).any()):
        raise ModelError("negative importance")


def _check_finite(values: torch.Tensor, what: str) -> None:
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    row, column = (int(index) for index in (~finite).nonzero()[0])
    raise ModelError(f"NaN or infinite {what} at row {row}, column {column}")
