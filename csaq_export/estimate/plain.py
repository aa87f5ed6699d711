"""A plain conversion's Estimate: rows stream from the source through the encoder to the file."""

import os

import torch

from csaq_export.estimate.encoders import Encoders
from csaq_export.estimate.stage import Estimate, Stage
from csaq_export.footprint import PROCESS_BYTES
from csaq_export.plan import Plan
from csaq_export.weight import CHUNK_WEIGHTS

# Float32 copies of a chunk of rows that reading, checking and encoding hold.
CHUNK_COPIES = 6


def estimate_plain(plan: Plan) -> Estimate:
    """From the types of the plan; encoders run for a moment, no weight is read."""
    encoders = Encoders(torch.device("cpu"))
    core_seconds = sum(
        encoders.plain(tensor.type, tensor.weight.n_row * tensor.weight.n_col)
        for tensor in plan.tensors
        if tensor.type != tensor.weight.type
    )
    seconds = core_seconds / min(torch.get_num_threads(), os.cpu_count() or 1)
    largest = max(t.weight.n_row * t.weight.n_col for t in plan.tensors)
    memory = PROCESS_BYTES["cpu"] + 4 * CHUNK_COPIES * min(largest, CHUNK_WEIGHTS)
    return Estimate("cpu", (Stage("convert", seconds, memory, plan.n_bytes),))
