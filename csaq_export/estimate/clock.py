"""Seconds of a trial: of cores, whatever else runs on a CPU; of the clock where it says so."""

import time
from collections.abc import Callable
from threading import Barrier

import torch

from csaq_export.parallel import in_parallel

# Beyond this, times the workers, a trial was disturbed.
MOST_SLOWDOWN = 2.0
# A short trial is repeated for so many seconds, or times.
STEADY_SECONDS, STEADY_TIMES = 0.3, 5


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of `work` with the threads that torch has."""
    if device.type == "cuda":
        return _on_clock(work, device)
    start = time.process_time()
    work()
    return time.process_time() - start


def _on_clock(work: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    work()
    return _now(device) - start


def _now(device: torch.device) -> float:
    """The clock, when everything is done that `device` was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed_threads(work: Callable[[], object]) -> float:
    """Seconds on the clock of `work` that starts threads of its own, on a CPU.

    What else runs on the machine makes it no longer than its threads one after the other.
    """
    start, cores = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - start, time.process_time() - cores)


def steady(work: Callable[[], object], device: torch.device) -> float:
    """Seconds on the clock of `work` with torch's threads and its files: the least of a few times.

    What is made once is made before.
    """
    work()
    found = [_on_clock(work, device)]
    while sum(found) < STEADY_SECONDS and len(found) < STEADY_TIMES:
        found.append(_on_clock(work, device))
    return min(found)


def timed_alone(work: Callable[[], object], device: torch.device) -> float:
    """The same of one core, as pieces of work that run side by side have it."""
    (seconds,) = in_parallel(lambda _: timed(work, device), (None,), device, 1)
    return seconds


def slowdown(work: Callable[[], object], n_each: int, n_worker: int, device: torch.device) -> float:
    """How many times as long `work` takes with `n_worker` side by side as alone, by the clock.

    1 where they do not hinder each other; `n_worker` and more where they take turns, as
    threads of Python do in short operations. A worker does it `n_each` times, twice: the
    shorter time counts.
    """
    n_worker = min(n_worker, torch.get_num_threads())
    if n_worker == 1 or device.type == "cuda":
        return 1.0
    alone, together = (
        min(_side_by_side(work, n_each, n, device) for _ in range(2)) for n in (1, n_worker)
    )
    return min(max(1.0, together / alone), MOST_SLOWDOWN * n_worker)


def _side_by_side(
    work: Callable[[], object], n_each: int, n_worker: int, device: torch.device
) -> float:
    """Seconds on the clock of a worker's `n_each` pieces, after one that makes its memory."""
    ready = Barrier(n_worker)

    def one(_: int) -> float:
        work()
        ready.wait()
        start = time.perf_counter()
        for _ in range(n_each):
            work()
        return time.perf_counter() - start

    return sum(in_parallel(one, range(n_worker), device, n_worker)) / n_worker
