"""One reply as it grows: draft, check the draft in one pass, keep what stands, drop the rest."""

import time
from collections.abc import Callable, Collection
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from csaq_export.hf.speculative.context import Context
from csaq_export.hf.speculative.report import SpeculativeReport
from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.drafter import NOTHING, Draft
from csaq_runtime.speculate.strategy import Strategy
from csaq_runtime.speculate.verify import verified

# Plain steps timed after a reply that had none of its own.
TIMED_STEPS = 3
Result = TypeVar("Result")


class Reply:
    """The tokens that follow a prompt, as `ids` grows by them. `context` holds all but the last.

    `strategy` drafts at most `n_draft` tokens a step, if there is one.
    """

    def __init__(
        self,
        context: Context,
        prompt: list[int],
        sampler: Sampler,
        stops: Collection[int],
        strategy: Strategy | None,
        n_draft: int,
    ) -> None:
        self.ids, self._n_prompt = list(prompt), len(prompt)
        self._context, self._sampler, self._stops = context, sampler, stops
        self._strategy, self._n_draft = strategy, n_draft
        self._n_drafted = self._n_accepted = self._n_draft_call = self._n_verify = 0
        self._plain: list[float] = []
        self._n_step, self._decode_s, self._prefill_s = 0, 0.0, 0.0
        if strategy is not None:
            strategy.begin(sampler.spawn())

    def grow(self, n: int) -> None:
        """Make up to `n` tokens; a stop is the last."""
        if n < 1:
            return
        logits, self._prefill_s = _timed(lambda: self._context.run(self.ids, 1))
        self.ids.append(self._sampler.sample(logits[0], self.ids))
        end = self._n_prompt + n
        while len(self.ids) < end and self.ids[-1] not in self._stops:
            tokens, seconds = _timed(lambda: self._step(end - len(self.ids)))
            self.ids += tokens
            self._n_step += 1
            self._decode_s += seconds

    def _step(self, n_most: int) -> list[int]:
        draft, drafting = _timed(lambda: self._draft(min(n_most, self._context.room) - 1))
        tokens, seconds = _timed(lambda: self._checked(draft))
        if self._strategy is not None:
            self._strategy.learn(tokens, drafting, seconds)
        if draft.ids:
            self._n_drafted += len(draft.ids)
            self._n_accepted += len(_common(tokens, draft))
            self._n_verify += 1
        else:
            self._plain.append(seconds)
        return tokens

    def _draft(self, room: int) -> Draft:
        n = min(self._n_draft, room)
        if self._strategy is None or n < 1:
            return NOTHING
        self._n_draft_call += 1
        return self._strategy.draft(self.ids, n, _no_state)

    def _checked(self, draft: Draft) -> list[int]:
        """What of a draft stands, and the token after it; the rest is rolled back."""
        n_past, ids = self._context.n_past, [self.ids[-1], *draft.ids]
        logits = self._context.run(ids, len(ids))
        tokens = verified(logits, draft, self._sampler, self.ids, self._stops)
        self._context.truncate(n_past + len(tokens))
        return tokens

    def report(self, mode: str) -> SpeculativeReport:
        """What it took; `mode` says who drafted."""
        return SpeculativeReport(
            mode=mode,
            tokens_generated=len(self.ids) - self._n_prompt,
            tokens_drafted=self._n_drafted,
            tokens_accepted=self._n_accepted,
            draft_calls=self._n_draft_call,
            verify_calls=self._n_verify,
            n_step=self._n_step,
            prefill_s=self._prefill_s,
            decode_s=self._decode_s,
            plain_step_s=self._plain_step(),
        )

    def _plain_step(self) -> float:
        """Median seconds of a pass for one token."""
        if self._n_step and not self._plain:
            n_past = self._context.n_past
            for _ in range(min(TIMED_STEPS, self._context.room)):
                self._plain.append(_timed(lambda: self._context.run([self.ids[-1]], 1))[1])
            self._context.truncate(n_past)
        return sorted(self._plain)[len(self._plain) // 2] if self._plain else 0.0


def _no_state() -> NDArray[np.float32]:
    """No drafter in torch asks for the model's state."""
    raise NotImplementedError


def _common(tokens: list[int], draft: Draft) -> list[int]:
    """The drafted tokens that stand."""
    found = []
    for token, guess in zip(tokens, draft.ids, strict=False):
        if token != guess:
            break
        found.append(token)
    return found


def _timed(work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
