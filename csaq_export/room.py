"""A request or what became of it → whether it fits, and how much may be done side by side.

Stages take turns in the same memory: weights that the calibration keeps between its passes
make room for matrices that are rounded, and for changed copies that are measured.
"""

from dataclasses import dataclass

import torch

from csaq_export.device import find_device
from csaq_export.footprint import (
    check_tuning,
    check_whole,
    keep_bytes,
    memory_limit,
    n_worker,
    shapes_of,
    state_bytes,
    walk_bytes,
    worker_bytes,
)
from csaq_export.guidance import TOKENS_AT_ONCE, Calibrating, Guidance
from csaq_export.layered_model import LayeredModel
from csaq_export.model import Model

# Hidden states of copies under way, at most: bounds how many of them walk together.
WALK_BYTES = 1 << 30


@dataclass(frozen=True)
class Uses:
    """What follows a calibration: matrices are rounded, tuned, or looked at element by element."""

    rounds: bool = True
    tunes: bool = False
    elements: bool = False


def check_room(model: Model, wanted: Calibrating, uses: Uses) -> None:
    """Raise ResourceError, before any work, where a stage would not fit --max-memory."""
    shapes, device = shapes_of(model.weights), find_device(wanted.device)
    limit = memory_limit(wanted.max_memory, device)
    keep_bytes(shapes, wanted.tokens_at_once, limit, device)
    if uses.rounds:
        n_worker(shapes, limit, device)
    if uses.tunes:
        check_tuning(shapes, TOKENS_AT_ONCE, limit, device)
    cpu = torch.device("cpu")
    in_ram = limit if device == cpu else memory_limit(None, cpu)
    if wanted.source is None:
        check_whole(shapes, 0, in_ram, "with --calib TEXT one layer at a time is enough")
    if uses.elements:
        hint = "without --elements one layer at a time is enough"
        check_whole(shapes, wanted.tokens_at_once, in_ram, hint)


def rounding_room(guidance: Guidance) -> int:
    """How many matrices to round side by side; weights in their way are let go of."""
    n = 1 if guidance.device.type == "cuda" else torch.get_num_threads()
    n = min(n, guidance.n_worker)
    taken = worker_bytes(guidance.shapes, n, guidance.device)
    guidance.model.keeping(guidance.limit - taken)
    return n


def walking_room(guidance: Guidance, n_window: int) -> tuple[LayeredModel, int]:
    """The model for measuring changed copies on `n_window` windows, and how many at once."""
    seq_len = guidance.held.tokens.shape[1]
    free = guidance.limit - walk_bytes(guidance.shapes, seq_len, guidance.device)
    each = state_bytes(guidance.shapes, n_window * seq_len, guidance.device)
    # On CUDA the states are in the machine's memory, beside the limit.
    most = WALK_BYTES if guidance.device.type == "cuda" else min(WALK_BYTES, free)
    n_copy = max(1, most // each - 1)
    taken = 0 if guidance.device.type == "cuda" else (n_copy + 1) * each
    return guidance.model.keeping(free - taken), n_copy
