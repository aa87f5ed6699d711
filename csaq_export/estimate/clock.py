"""Seconds of a trial: of cores, whatever else runs on a CPU; of the clock where it says so."""

import time
from collections.abc import Callable
from statistics import median
from threading import Barrier

import torch

from csaq_export.parallel import in_parallel

# Beyond this, times the workers, a trial was disturbed.
MOST_SLOWDOWN = 2.0
# A short trial is repeated for so many seconds, or times.
STEADY_SECONDS, STEADY_TIMES = 0.3, 5
# Turns that a worker takes alone and with the others.
N_TURN = 3


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


def timed_threads(work: Callable[[], object], _device: torch.device) -> float:
    """Seconds on the clock of `work` that starts threads of its own, on a CPU, for `steady`.

    What else runs on the machine makes it no longer than its threads one after the other.
    """
    start, cores = time.perf_counter(), time.process_time()
    work()
    return min(time.perf_counter() - start, time.process_time() - cores)


def steady(
    work: Callable[[], object],
    device: torch.device,
    measure: Callable[[Callable[[], object], torch.device], float] = _on_clock,
) -> float:
    """What `measure` says of `work`, its files at hand: the median of a few times.

    What is made once is made before. The least of them would be too short: a stage has the
    slower moments of the machine as well.
    """
    work()
    found = [measure(work, device)]
    while sum(found) < STEADY_SECONDS and len(found) < STEADY_TIMES:
        found.append(measure(work, device))
    return median(found)


def timed_alone(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one core, as pieces of work that run side by side have it."""
    (seconds,) = in_parallel(lambda _: timed(work, device), (None,), device, 1)
    return seconds


def steady_alone(work: Callable[[], object], device: torch.device) -> float:
    """The same of a few times."""
    (seconds,) = in_parallel(lambda _: steady(work, device, timed), (None,), device, 1)
    return seconds


def slowdown(work: Callable[[], object], n_worker: int, device: torch.device) -> float:
    """How many times as long `work` takes with `n_worker` side by side as alone, by the clock.

    1 where they do not hinder each other; `n_worker` and more where they take turns, as
    threads of Python do in short operations.
    """
    n_worker = min(n_worker, torch.get_num_threads())
    if n_worker == 1 or device.type == "cuda":
        return 1.0
    alone, together = _in_turns(work, n_worker, device)
    return min(max(1.0, together / alone), MOST_SLOWDOWN * n_worker)


def _in_turns(
    work: Callable[[], object], n_worker: int, device: torch.device
) -> tuple[float, float]:
    """Seconds on the clock of a worker while the others wait, and of all side by side.

    In turns, so that both have the machine's slow and fast moments; each makes its memory before.
    """
    ready = Barrier(n_worker)

    def one(index: int) -> tuple[float, float]:
        alone = together = 0.0
        try:
            work()
            for _ in range(N_TURN):
                ready.wait()
                alone += _on_clock(work, device) if index == 0 else 0.0
                ready.wait()
                together += _on_clock(work, device)
        except BaseException:
            ready.abort()  # or the others would wait for ever
            raise
        return alone, together

    found = in_parallel(one, range(n_worker), device, n_worker)
    return found[0][0], sum(together for _, together in found) / n_worker
