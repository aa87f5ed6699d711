"""Seconds of a trial: of all cores on a CPU, whatever else runs there; of the clock on CUDA."""

import time
from collections.abc import Callable

import torch

from csaq_export.parallel import in_parallel


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work` with the threads that torch has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    work()
    return time.process_time() - start


def timed_alone(work: Callable[[], object], device: torch.device) -> float:
    """The same of one core, as pieces of work that run side by side have it."""
    (seconds,) = in_parallel(lambda _: timed(work, device), (None,), device, 1)
    return seconds
