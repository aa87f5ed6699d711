"""A plain conversion's Estimate: rows stream from the source through the encoder to the file."""

import os
from dataclasses import replace

import torch

from csaq_export.estimate.clock import timed
from csaq_export.estimate.stage import Estimate, Stage
from csaq_export.footprint import PROCESS_BYTES
from csaq_export.pipeline import packed_rows
from csaq_export.plan import Plan, TensorPlan
from csaq_export.quantize import encode
from csaq_export.weight import CHUNK_WEIGHTS
from csaq_runtime.formats import GGMLType

# Float32 copies of a chunk of rows that reading, checking and encoding hold.
CHUNK_COPIES = 6
TRIAL_WEIGHTS = 1 << 18
CPU = torch.device("cpu")


def estimate_plain(plan: Plan) -> Estimate:
    """From the types of the plan: a few rows per type go through the encoder."""
    rates: dict[GGMLType, float] = {}
    for tensor in sorted(plan.tensors, key=_n_weight, reverse=True):
        if tensor.type not in rates:
            rates[tensor.type] = _rate(tensor)
    core_seconds = sum(_n_weight(tensor) * rates[tensor.type] for tensor in plan.tensors)
    seconds = core_seconds / min(torch.get_num_threads(), os.cpu_count() or 1)
    largest = max(map(_n_weight, plan.tensors))
    memory = PROCESS_BYTES["cpu"] + 4 * CHUNK_COPIES * min(largest, CHUNK_WEIGHTS)
    return Estimate("cpu", (Stage("convert", seconds, memory, plan.n_bytes),))


def _n_weight(tensor: TensorPlan) -> int:
    return tensor.weight.n_row * tensor.weight.n_col


def _rate(tensor: TensorPlan) -> float:
    """Seconds per weight of reading and encoding the first rows."""
    weight = tensor.weight
    n_row = max(1, min(weight.n_row, TRIAL_WEIGHTS // weight.n_col))
    few = TensorPlan(replace(weight, shape=(n_row, weight.n_col)), tensor.type, tensor.wanted)
    encode(weight.float32(slice(0, 1)), tensor.type)
    return timed(lambda: list(packed_rows(few)), CPU) / _n_weight(few)
