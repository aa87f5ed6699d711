"""Seconds of a trial: of all cores on a CPU, whatever else runs there; of the clock on CUDA."""

import time
from collections.abc import Callable

import torch

from csaq_export.parallel import in_parallel

# Beyond this, times the workers, a trial was disturbed.
MOST_SLOWDOWN = 2.0


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


def timed_threads(work: Callable[[], object]) -> float:
    """Seconds on the clock of `work` that starts threads of its own, on a CPU.

    What else runs on the machine makes it no longer than its threads one after the other.
    """
    start, cores = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - start, time.process_time() - cores)


def timed_alone(work: Callable[[], object], device: torch.device) -> float:
    """The same of one core, as pieces of work that run side by side have it."""
    (seconds,) = in_parallel(lambda _: timed(work, device), (None,), device, 1)
    return seconds


def slowdown(work: Callable[[], object], n_each: int, n_worker: int, device: torch.device) -> float:
    """How many times as long `work` takes with `n_worker` side by side as alone, by the clock.

    1 where they do not hinder each other; `n_worker` and more where they take turns, as
    threads of Python do in short operations. A worker does it `n_each` times, so that
    beginnings and ends do not count for much.
    """
    if n_worker == 1 or device.type == "cuda":
        return 1.0

    def seconds(n: int) -> float:
        start = time.perf_counter()
        in_parallel(lambda _: work(), range(n * n_each), device, n)
        return time.perf_counter() - start

    return min(max(1.0, seconds(n_worker) / seconds(1)), MOST_SLOWDOWN * n_worker)
