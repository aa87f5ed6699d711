"""Which sequence takes a job: the one that saves most of the prompt, none if waiting saves more."""

from collections.abc import Sequence
from dataclasses import dataclass

from csaq_runtime.cache import KVCache, common_prefix
from csaq_runtime.server.job import Job

WORTH_WAITING = 8
"""Tokens of prompt that somebody else is about to compute: a tile."""


@dataclass
class Slot:
    """A sequence of the engine, the job that has it, and when (`last_used`, in steps) it ran.

    `last_output`: which output of that step its last token was drawn from.
    """

    cache: KVCache
    job: Job | None = None
    last_used: int = 0
    last_output: int = 0

    @property
    def n_pending(self) -> int:
        """Ids of the job that are not in the cache yet; 0 where there is no job."""
        return len(self.job.context) - self.cache.n_past if self.job else 0


def place(job: Job, slots: Sequence[Slot]) -> bool:
    """Give `job` a free slot whose cache begins as its prompt does; False: let it wait.

    A prefix that another sequence holds, free or busy, is copied. The last token of a prompt is
    always computed, because its logits are wanted.
    """
    free = [slot for slot in slots if slot.job is None]
    ids = job.context[:-1]
    if not free or _is_promised(ids, slots):
        return False
    best = max(slots, key=lambda slot: (slot.cache.common_prefix(ids), slot.job is None))
    n_kept = best.cache.common_prefix(ids)
    target = best if _may_lose_rest(best, n_kept) else min(free, key=lambda s: s.last_used)
    if target is not best and n_kept > target.cache.common_prefix(ids):
        target.cache.copy_from(best.cache, n_kept)
    n_kept = target.cache.common_prefix(ids)
    target.cache.truncate(n_kept)
    target.job = job
    job.start(n_kept)
    return True


def _is_promised(ids: Sequence[int], slots: Sequence[Slot]) -> bool:
    """Whether a busy slot will soon hold much more of `ids` than any does now."""
    held = max(slot.cache.common_prefix(ids) for slot in slots)
    reading = [slot.job for slot in slots if slot.job and slot.n_pending > 1]
    promised = max((common_prefix(job.context, ids) for job in reading), default=0)
    return promised >= held + WORTH_WAITING


def _may_lose_rest(slot: Slot, n_kept: int) -> bool:
    """A free slot is taken over where the job continues most of what it holds."""
    return slot.job is None and 2 * n_kept >= slot.cache.n_past
