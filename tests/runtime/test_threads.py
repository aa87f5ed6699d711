"""The thread pool: all threads run together, survive interrupts, errors and forks."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from csaq_runtime.errors import UsageError
from csaq_runtime.threads import ThreadPool, available_cores, default_threads


@pytest.mark.parametrize("n_thread", [1, 2, 5])
def test_every_thread_runs_every_job_at_the_same_time(n_thread: int) -> None:
    pool, barrier, seen = ThreadPool(n_thread), threading.Barrier(n_thread), []

    def work(index: int) -> None:
        barrier.wait(timeout=20)
        seen.append(index)

    for _ in range(20):
        pool.run(work)
        assert sorted(seen) == list(range(n_thread))
        seen.clear()
    pool.close()


def test_close_ends_the_threads_and_run_starts_new_ones() -> None:
    pool, running = ThreadPool(3), []
    for _ in range(2):
        running.clear()
        pool.run(lambda index: running.append(threading.current_thread()))
        assert sum(thread.is_alive() for thread in running) == 3
        pool.close()
        assert not any(thread.is_alive() for thread in running)


def test_a_forgotten_pool_ends_its_threads() -> None:
    pool, running = ThreadPool(2), []
    pool.run(lambda index: running.append(threading.current_thread()))
    del pool
    for thread in running:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_the_error_of_a_thread_reaches_the_caller() -> None:
    pool = ThreadPool(2)

    def fail(index: int) -> None:
        if index == 1:
            raise ValueError("one failed")

    with pytest.raises(ValueError, match="one failed"):
        pool.run(fail)
    pool.run(lambda index: None)
    pool.close()


def test_an_interrupted_job_finishes_before_the_next_begins() -> None:
    pool, order = ThreadPool(2), []

    def slow(index: int) -> None:
        time.sleep(0.3)
        order.append("slow")

    threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        pool.run(slow)
    pool.settle()
    assert order == ["slow", "slow"]
    pool.run(lambda index: order.append("next"))
    assert order == ["slow", "slow", "next", "next"]
    pool.close()


FORK = """
import os
from csaq_runtime.threads import ThreadPool
pool, seen = ThreadPool(2), []
pool.run(seen.append)
child = os.fork()
if child == 0:
    pool.run(seen.append)
    os._exit(0 if sorted(seen) == [0, 0, 1, 1] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
pool.run(seen.append)
assert sorted(seen) == [0, 0, 1, 1]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gets_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_thread_counts_out_of_range_are_refused() -> None:
    for n_thread in (0, -1, 5000):
        with pytest.raises(UsageError, match="threads"):
            ThreadPool(n_thread)


def test_small_models_get_few_threads() -> None:
    assert default_threads(0) == 1
    assert default_threads(2**40) == available_cores()
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
