"""Drafts for a reply that has the engine to itself: ids in, more tokens out of its next step.

With several replies a step of all of them shares the weights already. Nothing is drafted by chance
here, so every reply is the one without drafts, sampled ones of a seed included.
"""

import time

from csaq_runtime.batch import Span
from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.server.job import Job
from csaq_runtime.server.placement import Slot
from csaq_runtime.speculate.drafter import Draft


class Drafting:
    """What the engine's drafters propose for one job at a time, and what came of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._job: Job | None = None
        self._started = self._drafted = 0.0
        self._is_open = False

    def span(self, slot: Slot) -> Span:
        """The next step of a job that is alone: its last token, and a draft."""
        job, cache, strategy = slot.job, slot.cache, self._engine.strategy
        assert job is not None
        self._is_open = strategy is not None and job.n_generated > 0
        if strategy is None or not self._is_open:
            return Span(cache, job.context[-1:], 1)
        self._begin(job, slot)
        self._started = time.perf_counter()
        n_left = job.generation.n_predict - job.n_generated
        room = min(n_left, self._engine.n_output, cache.n_ctx - cache.n_past)
        draft: Draft = strategy.draft(
            job.context, room - 1, lambda: self._engine.hidden(slot.last_output)
        )
        self._drafted = time.perf_counter()
        ids = [job.context[-1], *draft.ids]
        return Span(cache, ids, len(ids))

    def learn(self, tokens: list[int]) -> None:
        """The step of the last `span` is done and brought `tokens`."""
        if self._is_open and self._engine.strategy is not None:
            seconds = time.perf_counter() - self._drafted
            self._engine.strategy.learn(tokens, self._drafted - self._started, seconds)
        self._is_open = False

    def _begin(self, job: Job, slot: Slot) -> None:
        if job is self._job:
            return
        self._job = job
        self._engine.follow(slot.cache)
        assert self._engine.strategy is not None
        self._engine.strategy.begin(Sampler(Sampling(temperature=0)))
