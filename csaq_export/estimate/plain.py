"""A plain conversion's Estimate: rows stream from the source through the encoder to the file."""

from functools import partial

import torch

from csaq_export.estimate.clock import steady, timed_threads
from csaq_export.estimate.stage import Estimate, Stage
from csaq_export.plan import Plan, TensorPlan
from csaq_export.quantize.encode import CHUNK, encode
from csaq_export.weight import CHUNK_WEIGHTS
from csaq_runtime.formats import GGMLType

# Python and torch, without transformers.
PROCESS_BYTES = 410 << 20
# Float32 copies of a chunk of rows that reading, checking and encoding hold.
CHUNK_COPIES = 6
# Chunks per thread, as far as a matrix has them: of one each, the last would be waited for longer.
CHUNKS_EACH = 2
CPU = torch.device("cpu")


def estimate_plain(plan: Plan) -> Estimate:
    """From the types of the plan: a few rows per type go through the encoder; no weight is read."""
    rates: dict[tuple[GGMLType, int, int], float] = {}
    encoded = [tensor for tensor in plan.tensors if tensor.type != tensor.weight.type]
    for tensor in sorted(encoded, key=_n_weight, reverse=True):
        if _kind(tensor) not in rates:
            rates[_kind(tensor)] = _rate(tensor)
    seconds = sum(_n_weight(tensor) * rates[_kind(tensor)] for tensor in encoded)
    largest = max(map(_n_weight, plan.tensors))
    memory = PROCESS_BYTES + 4 * CHUNK_COPIES * min(largest, CHUNK_WEIGHTS)
    return Estimate("cpu", (Stage("convert", seconds, memory, plan.n_bytes),))


def _kind(tensor: TensorPlan) -> tuple[GGMLType, int, int]:
    """Type, and rows and columns that are encoded side by side."""
    n_row, n_col = tensor.weight.n_row, tensor.weight.n_col
    n_chunk = CHUNKS_EACH * torch.get_num_threads()
    return tensor.type, max(1, min(n_row, n_chunk * (CHUNK // n_col))), n_col


def _n_weight(tensor: TensorPlan) -> int:
    return tensor.weight.n_row * tensor.weight.n_col


def _rate(tensor: TensorPlan) -> float:
    """Seconds per weight of encoding rows of the tensor's width."""
    ggml_type, *shape = _kind(tensor)
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return steady(partial(encode, values, ggml_type), CPU, timed_threads) / values.numel()
