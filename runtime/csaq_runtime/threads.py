"""The threads of an engine: the caller runs a step as thread 0, followers run it beside it.

Followers wait inside native code (`kernels/serve.py`), polling a mailbox, so that the next step
of a generation finds them awake; after a while of silence they park on a lock. Kernels release
the GIL, hence Python threads suffice. They are started at first use and again after a fork.
"""

import os
import threading
import weakref
from collections.abc import Callable

import numpy as np

from csaq_runtime.buffers import address, aligned_bytes
from csaq_runtime.errors import UsageError
from csaq_runtime.kernels.mailbox import CALLING, JOB, N_WORD, SEQUENCE

Serve = Callable[[int, int, int], int]
"""`serve(mailbox address, thread, sequence number seen)`: see `kernels/serve.py`."""

MIN_BYTES_PER_THREAD = 4 * 2**20
"""Read in about 0.3 ms; waking a thread and its barriers take a third of that."""


class _Post:
    """What the caller and its followers share: the mailbox, and who is parked."""

    def __init__(self) -> None:
        self.mailbox = aligned_bytes(8 * N_WORD).view(np.int64)
        self.address = address(self.mailbox)
        self.is_closed = False
        self._lock = threading.Lock()
        self._parked: list[threading.Lock] = []

    def park(self, seen: int) -> None:
        """Sleep until somebody calls, unless somebody is calling already.

        `wake` and this decide under one lock, and a follower that polls does not give up
        while CALLING is set: no call can be missed.
        """
        with self._lock:
            if self.is_closed or self.mailbox[CALLING] or self.mailbox[SEQUENCE] != seen:
                return
            bell = threading.Lock()
            bell.acquire()
            self._parked.append(bell)
        bell.acquire()

    def wake(self, calling: bool) -> None:
        """Wake all who are parked; `calling`: they shall not park again before a job came."""
        with self._lock:
            self.mailbox[CALLING] = calling
            for bell in self._parked:
                bell.release()
            self._parked.clear()

    def close(self) -> None:
        """Send the followers home."""
        self.is_closed = True
        self.wake(calling=False)


def _follow(post: _Post, serve: Serve, thread: int) -> None:
    """Run every job as number `thread`, until the post is closed."""
    seen = 0
    while not post.is_closed:
        seen = serve(post.address, thread, seen)
        post.park(seen)


class ThreadPool:
    """`n_thread` threads that run a job together. Not for use by two callers at once."""

    def __init__(self, n_thread: int, serve: Serve) -> None:
        check_threads(n_thread)
        self.n_thread = n_thread
        self._serve = serve
        self._process = 0
        self._post = _Post()
        self._followers: list[threading.Thread] = []
        self._unfinished: threading.Thread | None = None

    def run(self, job: int) -> None:
        """Run the job at address `job` on all threads, this one included; return when done.

        A signal is handled only afterwards, so the others cannot be stranded in a barrier.
        """
        self.settle()
        if self._process != os.getpid():
            self._start()
        self._call(job)

    def run_long(self, job: int) -> None:
        """Like `run`, from a thread of its own, so that Ctrl-C ends the wait at once.

        The job then goes on; see `settle`.
        """
        self.settle()
        if self._process != os.getpid():
            self._start()
        self._unfinished = threading.Thread(target=self._call, args=(job,), daemon=True)
        self._unfinished.start()
        self.settle()

    def settle(self) -> None:
        """Wait until no interrupted job is running any more: before its memory is touched."""
        if self._unfinished is not None and self._process == os.getpid():
            self._unfinished.join()
        self._unfinished = None

    def close(self) -> None:
        """End the threads; waits for a job that is still running."""
        self.settle()
        self._post.close()
        if self._process == os.getpid():
            for follower in self._followers:
                follower.join()
        self._followers, self._process = [], 0

    def _call(self, job: int) -> None:
        post = self._post
        post.mailbox[JOB] = job
        try:
            post.wake(calling=True)
            self._serve(post.address, 0, 0)
        finally:
            post.mailbox[CALLING] = 0

    def _start(self) -> None:
        """Start the followers; threads of a parent process are gone."""
        self._post = post = _Post()
        weakref.finalize(self, post.close)
        self._followers = [
            threading.Thread(target=_follow, args=(post, self._serve, index), daemon=True)
            for index in range(1, self.n_thread)
        ]
        for follower in self._followers:
            follower.start()
        self._process = os.getpid()


def check_threads(n_thread: int) -> None:
    """Raise UsageError unless a pool may have so many threads."""
    if not 1 <= n_thread <= 1024:
        raise UsageError(f"{n_thread} threads: must be 1 … 1024")


def default_threads(weight_bytes: int) -> int:
    """Threads for a model of that size: all cores, but enough weights for each to be worth it."""
    return max(1, min(available_cores(), weight_bytes // MIN_BYTES_PER_THREAD))


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
