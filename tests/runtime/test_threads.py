"""The thread pool: all threads run together, survive interrupts, errors and forks."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from csaq_runtime.errors import UsageError
from csaq_runtime.kernels.mailbox import N_WORD, SEQUENCE
from csaq_runtime.threads import Serve, ThreadPool, available_cores, default_threads


def serving(work: Callable[[int], object]) -> Serve:
    """A `serve` in Python: calls `work(thread)` per job, and gives up polling very soon."""

    def serve(mailbox: int, thread: int, seen: int) -> int:
        words = (ctypes.c_int64 * N_WORD).from_address(mailbox)
        if thread == 0:
            words[SEQUENCE] += 1
            work(0)
            return 0
        for _ in range(3):
            if words[SEQUENCE] != seen:
                seen = words[SEQUENCE]
                work(thread)
        return seen

    return serve


class Meeting:
    """Work of `n_thread` threads that wait for each other, as kernels do."""

    def __init__(self, n_thread: int, seconds: float = 0.0) -> None:
        self.seen: list[int] = []
        self.threads: set[threading.Thread] = set()
        self._barrier = threading.Barrier(n_thread)
        self._seconds = seconds

    def __call__(self, thread: int) -> None:
        self.seen.append(thread)
        self.threads.add(threading.current_thread())
        time.sleep(self._seconds)
        self._barrier.wait(timeout=20)


@pytest.mark.parametrize("n_thread", [1, 2, 5])
@pytest.mark.parametrize("pause", [0.0, 0.01])
def test_every_thread_runs_every_job_however_long_it_waited(n_thread: int, pause: float) -> None:
    work = Meeting(n_thread)
    pool = ThreadPool(n_thread, serving(work))
    for run in [pool.run, pool.run_long] * 15:
        run(0)
        assert sorted(work.seen) == list(range(n_thread))
        work.seen.clear()
        time.sleep(pause)
    pool.close()


def test_close_ends_the_threads_and_run_starts_new_ones() -> None:
    work = Meeting(3)
    pool = ThreadPool(3, serving(work))
    for _ in range(2):
        work.threads.clear()
        pool.run(0)
        followers = work.threads - {threading.current_thread()}
        assert len(followers) == 2
        pool.close()
        assert not any(thread.is_alive() for thread in followers)


def test_a_forgotten_pool_ends_its_threads() -> None:
    work = Meeting(2)
    pool = ThreadPool(2, serving(work))
    pool.run(0)
    del pool
    for thread in work.threads - {threading.current_thread()}:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_an_interrupted_long_job_finishes_before_the_next_begins() -> None:
    work = Meeting(2, seconds=0.3)
    pool = ThreadPool(2, serving(work))
    threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        pool.run_long(0)
    assert len(work.seen) == 2
    pool.run(0)
    assert sorted(work.seen) == [0, 0, 1, 1]
    pool.close()


FORK = """
import os, time
from csaq_runtime.threads import ThreadPool
from test_threads import Meeting, serving
work = Meeting(2)
pool = ThreadPool(2, serving(work))
pool.run(0)
time.sleep(0.5)  # the follower leaves Python's barrier, whose lock the child would copy
child = os.fork()
if child == 0:
    pool.run(0)
    os._exit(0 if sorted(work.seen) == [0, 0, 1, 1] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
pool.run(0)
assert sorted(work.seen) == [0, 0, 1, 1]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK]
    subprocess.run(command, check=True, timeout=60, cwd=Path(__file__).parent)


def test_thread_counts_out_of_range_are_refused() -> None:
    for n_thread in (0, -1, 5000):
        with pytest.raises(UsageError, match="threads"):
            ThreadPool(n_thread, serving(lambda thread: None))


def test_small_models_get_few_threads() -> None:
    assert default_threads(0) == 1
    assert default_threads(2**40) == available_cores()
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
