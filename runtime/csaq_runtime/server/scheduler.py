"""Continuous batching: a thread that runs steps as long as there are jobs.

A step takes the next token of every sequence that is replying, and as many prompt tokens of the
others as `pace` allows; a reply that is alone may draft (`drafting.py`). Jobs come and go between
steps; a job's logits, hence its reply, are the same to the last bit whoever it shares its steps
with.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.engine import Engine
from csaq_runtime.errors import ResourceError
from csaq_runtime.server.counters import Counters
from csaq_runtime.server.drafting import Drafting
from csaq_runtime.server.failure import RequestError
from csaq_runtime.server.job import Job
from csaq_runtime.server.pace import Pace
from csaq_runtime.server.placement import Slot, place

MAX_WAITING = 64

Batch = list[tuple[Slot, Span]]


class Scheduler:
    """Runs jobs on the sequences of an engine, which is its alone until `close`."""

    def __init__(self, engine: Engine, max_waiting: int = MAX_WAITING) -> None:
        self.counters = Counters()
        self.slots = [Slot(cache) for cache in engine.caches]
        self._engine, self._pace = engine, Pace(engine.n_batch)
        self._drafting = Drafting(engine)
        self._waiting: deque[Job] = deque()
        self._most = max_waiting + len(self.slots)
        self._changed, self._is_closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="csaq-steps", daemon=True)
        self._thread.start()

    @property
    def n_active(self) -> int:
        """Jobs that have a slot."""
        return sum(slot.job is not None for slot in self.slots)

    @property
    def n_waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Queue all `jobs` or none; ResourceError where the queue is full or closed."""
        with self._changed:
            if self._is_closed:
                raise ResourceError("the server is shutting down")
            if self.n_active + self.n_waiting + len(jobs) > self._most:
                raise ResourceError("the server is busy: too many requests are waiting")
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self, seconds: float = 5.0) -> None:
        """End all jobs, then the thread; wait for it at most `seconds`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while self._wait_for_work():
            self._admit()
            batch = self._next_batch()
            if batch:
                self._advance(batch)
        self._end_all(RequestError("the server is shutting down", status=503, code="shutdown"))

    def _wait_for_work(self) -> bool:
        """Forget who was cancelled, sleep while there is nothing to do; False: closed."""
        with self._changed:
            self._forget_cancelled()
            while not (self._is_closed or self._waiting or self.n_active):
                self._changed.wait()
            return not self._is_closed

    def _forget_cancelled(self) -> None:
        for slot in self.slots:
            if slot.job is not None and slot.job.is_cancelled:
                slot.job = None
                self.counters.n_cancelled += 1
        kept = [job for job in self._waiting if not job.is_cancelled]
        self.counters.n_cancelled += len(self._waiting) - len(kept)
        self._waiting = deque(kept)

    def _admit(self) -> None:
        """Place waiting jobs, oldest first; one that waits for a prefix lets a few others pass."""
        with self._changed:
            candidates = list(islice(self._waiting, 2 * len(self.slots)))
        for job in candidates:
            if self.n_active == len(self.slots):
                return
            if place(job, self.slots):
                self.counters.n_cached += job.n_cached
                with self._changed:
                    self._waiting.remove(job)

    def _next_batch(self) -> Batch:
        busy = sorted((slot for slot in self.slots if slot.job), key=lambda slot: slot.n_pending)
        ready = [slot for slot in busy if slot.n_pending == 1]
        reading = busy[len(ready) :]
        if len(busy) == 1 and ready:
            return self._drafted(ready[0])
        batch = [_take(slot, 1) for slot in ready]
        room = min(self._pace.budget(bool(ready)), self._engine.n_batch - len(ready))
        for index, slot in enumerate(reading):
            # An equal share for all, and what short prompts leave for the longer ones.
            n = min(slot.n_pending, max(room // (len(reading) - index), 1))
            if n <= room:
                batch.append(_take(slot, n))
                room -= n
        return batch

    def _drafted(self, slot: Slot) -> Batch:
        """The step of a reply that is alone."""
        try:
            return [(slot, self._drafting.span(slot))]
        except Exception as error:
            _end(slot, error)
            return []

    def _advance(self, batch: Batch) -> None:
        """One step; whatever goes wrong ends the jobs it goes wrong for, never the thread."""
        started, counters = time.perf_counter(), self.counters
        try:
            logits = self._engine.step([span for _, span in batch])
        except Exception as error:
            for slot, _ in batch:
                _end(slot, error)
            return
        seconds = time.perf_counter() - started
        counters.n_step += 1
        counters.step_seconds += seconds
        # What was drafted was not read from a prompt.
        n_read = sum(len(span.ids) - max(span.n_output - 1, 0) for _, span in batch)
        self._pace.observe(n_read, seconds)
        n_seen = 0
        for slot, span in batch:
            slot.last_used, slot.last_output = counters.n_step, n_seen
            job = slot.job
            assert job is not None
            counters.n_prompt += len(span.ids) if job.n_generated == 0 else 0
            if span.n_output:
                self._draw(slot, job, span, logits[n_seen : n_seen + span.n_output])
            n_seen += span.n_output

    def _draw(self, slot: Slot, job: Job, span: Span, rows: NDArray[np.float32]) -> None:
        """Let a job take its next tokens, as long as drafted ones are right.

        Its slot is free when that was the last.
        """
        n_before, n_drawn, goes_on = len(job.context), 0, True
        guesses = [*span.ids[len(span.ids) - len(rows) + 1 :], None]
        try:
            for row, guess in zip(rows, guesses, strict=True):
                goes_on, n_drawn = job.take(row), n_drawn + 1
                if not goes_on or job.context[-1] != guess:
                    break
        except Exception as error:
            _end(slot, error)
            return
        slot.cache.truncate(slot.cache.n_past - len(rows) + n_drawn)
        slot.last_output += n_drawn - 1
        self._drafting.learn(job.context[n_before:])
        self.counters.n_generated += len(job.context) - n_before
        if not goes_on:
            slot.job = None

    def _end_all(self, error: Exception) -> None:
        for job in self._waiting:
            job.deliver(error)
        self._waiting.clear()
        for slot in self.slots:
            _end(slot, error)


def _take(slot: Slot, n: int) -> tuple[Slot, Span]:
    """The next `n` ids that are not in the slot's cache; logits after them if they are the last."""
    assert slot.job is not None
    start = slot.cache.n_past
    n_output = int(n == slot.n_pending)
    return slot, Span(slot.cache, slot.job.context[start : start + n], n_output)


def _end(slot: Slot, error: Exception) -> None:
    """Free a slot and tell its job why."""
    job, slot.job = slot.job, None
    if job is not None:
        job.deliver(error)
