"""The worker threads of an engine: run one function on all of them, meet, wait.

Thread 0, the leader, takes jobs from a queue and releases the others, so the thread that asks
only ever waits: Ctrl-C there cannot strand a worker inside a barrier. The kernels release the
GIL, hence Python threads suffice. Threads are started at first use and again after a fork.
"""

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from csaq_runtime.errors import UsageError

Work = Callable[[int], None]

MIN_BYTES_PER_THREAD = 4 * 2**20
"""Read in about 0.3 ms; waking a thread and its barriers take a third of that."""


class _Job:
    """A function to run on every thread. Waits on a bare lock: half the cost of an Event."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.error: BaseException | None = None
        self._finished = threading.Lock()
        self._finished.acquire()

    def finish(self) -> None:
        """Let `wait` return."""
        self._finished.release()

    def wait(self) -> None:
        """Return once all threads are done."""
        self._finished.acquire()


def _follow(jobs: "SimpleQueue[_Job | None]", finished: "SimpleQueue[None]", index: int) -> None:
    """Run every job as thread `index`."""
    while (job := jobs.get()) is not None:
        _run(job, index)
        finished.put(None)


def _lead(jobs: "SimpleQueue[_Job | None]", n_thread: int) -> None:
    """Run every job as thread 0, with the help of `n_thread - 1` followers."""
    finished: SimpleQueue[None] = SimpleQueue()
    queues: list[SimpleQueue[_Job | None]] = [SimpleQueue() for _ in range(n_thread - 1)]
    followers = [
        threading.Thread(target=_follow, args=(queue, finished, index), daemon=True)
        for index, queue in enumerate(queues, 1)
    ]
    for follower in followers:
        follower.start()
    while (job := jobs.get()) is not None:
        for queue in queues:
            queue.put(job)
        _run(job, 0)
        for _ in queues:
            finished.get()
        job.finish()
    for queue, follower in zip(queues, followers, strict=True):
        queue.put(None)
        follower.join()


def _run(job: _Job, index: int) -> None:
    try:
        job.work(index)
    except BaseException as error:  # handed to the thread that asked
        job.error = error


class ThreadPool:
    """`n_thread` threads that run a function together. Not for use by two callers at once."""

    def __init__(self, n_thread: int) -> None:
        if not 1 <= n_thread <= 1024:
            raise UsageError(f"{n_thread} threads: must be 1 … 1024")
        self.n_thread = n_thread
        self._process = 0
        self._settled = True
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._stop: Callable[[], object] = lambda: None
        self._leader: threading.Thread | None = None

    def run(self, work: Work) -> None:
        """Call `work(0)` … `work(n_thread - 1)`, one per thread; return when all are done.

        An interrupted wait (Ctrl-C) leaves the job running; see `settle`. The last error of a
        thread is raised here. A single thread needs no help: the work is done right here.
        """
        if self.n_thread == 1:
            work(0)
            return
        self._settled = False
        self._wait_for(work)
        self._settled = True

    def settle(self) -> None:
        """Wait until no interrupted job is running any more: before its memory is touched."""
        if not self._settled and self._process == os.getpid():
            self._wait_for(lambda index: None)
        self._settled = True

    def close(self) -> None:
        """End the threads; waits for a job that is still running."""
        if self._leader is not None and self._process == os.getpid():
            self._stop()
            self._leader.join()
        self._leader, self._process = None, 0

    def _wait_for(self, work: Work) -> None:
        if self._process != os.getpid():
            self._start()
        job = _Job(work)
        self._jobs.put(job)
        job.wait()
        if job.error is not None:
            raise job.error

    def _start(self) -> None:
        """Start the leader, which starts the others; threads of a parent process are gone."""
        self._jobs = SimpleQueue()
        self._stop = weakref.finalize(self, self._jobs.put, None)
        arguments = (self._jobs, self.n_thread)
        self._leader = threading.Thread(target=_lead, args=arguments, daemon=True)
        self._leader.start()
        self._process = os.getpid()


def default_threads(weight_bytes: int) -> int:
    """Threads for a model of that size: all cores, but enough weights for each to be worth it."""
    return max(1, min(available_cores(), weight_bytes // MIN_BYTES_PER_THREAD))


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
