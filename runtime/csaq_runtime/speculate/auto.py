"""The default strategy: drafts where they pay, as far as they pay, by what is measured meanwhile.

A step that checks k tokens yields 1 + p₁ + p₁p₂ + … of them (pᵢ: chance that the i-th stands if
those before it do) and costs v(k + 1) + c·k plain steps; the best yield per time wins, a step
without a draft yielding 1 at 1. Chances are learnt by the drafter's own confidence, v and c are
medians. Look-ups that are not used are still compared with what came, so they are learnt for
free; other drafters are tried again now and then. `credit.py` bounds the loss.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse

from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.credit import Credit
from csaq_runtime.speculate.drafter import Draft, Drafter
from csaq_runtime.speculate.odds import Odds, confidence_bin
from csaq_runtime.speculate.step_clock import STALE, StepClock
from csaq_runtime.speculate.strategy import State

MARGIN = 1.02
"""Yield per time, relative to plain, from which on a draft is worth the trouble."""

REFRESH, RETRY = 64, 48
"""Steps after which a plain one is measured again, and an unused drafter tried again."""

HOPELESS = 0.05
"""Chance of a token below which nothing after it is considered."""

REST = 16
"""Steps without a thought of drafting once the credit is used up: thinking costs time, too."""

NOTHING = Draft()
N_PROBE = 2
POSITION_PRIOR = (0.6,) * 16
FIRST_COST = {"ngram": 0.02, "head": 0.1, "planes": 0.6}
"""Cost of a drafted token in plain steps before it is measured (n-gram: of a whole draft)."""

SMOOTHING = 0.2


@dataclass
class _Record:
    """What is known about one drafter; `cost` in seconds per token drafted, 0: not measured."""

    drafter: Drafter
    by_confidence: Odds = field(default_factory=Odds.by_confidence)
    by_position: Odds = field(default_factory=lambda: Odds(POSITION_PRIOR))
    cost: float = 0.0
    last_used: int = -RETRY

    def seconds(self, plain: float) -> float:
        """Seconds per drafted token (look-up: per draft)."""
        return self.cost or FIRST_COST[self.drafter.name] * plain

    def chances(self, draft: Draft) -> Iterator[float]:
        """Of each drafted token, that it stands if those before it do."""
        if not draft.confidence:
            return (self.by_position.of(i) for i in range(len(draft.ids)))
        return (self.by_confidence.of(confidence_bin(c)) for c in draft.confidence)

    def timed(self, seconds: float) -> None:
        """A drafted token (look-up: a draft) took `seconds`."""
        self.cost += (SMOOTHING if self.cost else 1.0) * (seconds - self.cost)

    def observe(self, draft: Draft, tokens: Sequence[int]) -> None:
        """Compare a draft with the tokens that came, up to the first that differs."""
        for index, (guess, token) in enumerate(zip(draft.ids, tokens, strict=False)):
            self.by_position.observe(index, guess == token)
            if draft.confidence:
                self.by_confidence.observe(confidence_bin(draft.confidence[index]), guess == token)
            if guess != token:
                return


def _is_lookup(record: _Record) -> bool:
    """Whether a draft costs next to nothing, however long."""
    return record.drafter.name == "ngram"


class Auto:
    """Chooses among `drafters`, at most `n_max` tokens at a time. Knowledge outlives replies."""

    def __init__(self, drafters: Sequence[Drafter], n_max: int) -> None:
        self._records, self._n_max = [_Record(drafter) for drafter in drafters], n_max
        self._clock, self._credit = StepClock(n_max + 1), Credit()
        self._proposed: list[tuple[_Record, Draft]] = []
        self._n_sent = self._rest = 0

    @property
    def plain_seconds(self) -> float:
        """What a step without a draft takes; 0: not measured yet."""
        return self._clock.plain

    def begin(self, sampler: Sampler) -> None:
        """A reply begins; see `Drafter.begin`."""
        for record in self._records:
            record.drafter.begin(sampler.spawn())

    def draft(self, context: Sequence[int], n: int, state: State) -> Draft:
        """The draft that promises most, none where none promises more than a plain step."""
        if self._rest:
            return NOTHING
        self._proposed.clear()
        draft = self._chosen(context, min(n, self._n_max), state)
        self._n_sent = len(draft.ids)
        return draft

    def learn(self, tokens: Sequence[int], draft_seconds: float, step_seconds: float) -> None:
        """Update chances, costs and credit by what the last step brought."""
        clock = self._clock
        if self._rest:
            self._rest -= 1
            self._n_sent = 0
            clock.n_step += 1
            self._credit.settle(draft_seconds + step_seconds, step_seconds, clock.plain)
            return
        clock.observe(1 + self._n_sent, step_seconds)
        if clock.n_step % STALE == 0:
            clock.forget_stale()
        for record, draft in self._proposed:
            record.observe(draft, tokens)
        # A plain step is worth what it took: only drafting may earn or cost anything.
        worth = len(tokens) * clock.plain if self._n_sent else step_seconds
        self._credit.settle(draft_seconds + step_seconds, worth, clock.plain)

    def _chosen(self, context: Sequence[int], n: int, state: State) -> Draft:
        clock = self._clock
        if n < 1 or clock.plain == 0 or clock.age(1) > REFRESH:
            return Draft()
        draft, rate = Draft(), MARGIN
        for record in filter(_is_lookup, self._records):
            found = self._looked_up(record, context, n)
            k, promised = self._best_length(record.chances(found), 0.0)
            if promised > rate:
                draft, rate = found.first(k), promised
        for record in filterfalse(_is_lookup, self._records):
            k, promised = self._promise(record, n)
            if promised <= rate and clock.n_step - record.last_used > RETRY:
                k, promised = min(N_PROBE, n), rate
            if k and promised >= rate and self._dares(k, record.seconds(clock.plain)):
                return self._made(record, context, k, state, rate)
        return draft

    def _dares(self, k: int, seconds_each: float) -> bool:
        """Whether the credit covers a draft of `k` tokens of which none stands."""
        clock = self._clock
        return self._credit.covers(k * seconds_each + (clock.cost[k + 1] - 1) * clock.plain)

    def _looked_up(self, record: _Record, context: Sequence[int], n: int) -> Draft:
        """A look-up's draft, which is learnt from whether it is used or not.

        Only while the credit lasts for using it, too.
        """
        if not self._dares(1, record.seconds(self._clock.plain)):
            self._rest = REST
            return Draft()
        started = time.perf_counter()
        draft = record.drafter.propose(context, n, None).first(n)
        record.timed(time.perf_counter() - started)
        self._proposed.append((record, draft))
        return draft

    def _promise(self, record: _Record, n: int) -> tuple[int, float]:
        """Best length and yield per time of a drafter that has not drafted yet."""
        chances = (record.by_position.of(index) for index in range(n))
        return self._best_length(chances, record.seconds(self._clock.plain))

    def _best_length(self, chances: Iterable[float], seconds_each: float) -> tuple[int, float]:
        """How many tokens of those `chances` to draft, and the yield per time relative to plain."""
        clock, best, best_rate = self._clock, 0, 1.0
        each, tokens, stands = seconds_each / clock.plain, 1.0, 1.0
        for k, chance in enumerate(chances, 1):
            stands *= chance
            if stands < HOPELESS or not self._dares(k, seconds_each):
                break
            tokens += stands
            rate = tokens / (clock.cost[k + 1] + each * k)
            if rate > best_rate:
                best, best_rate = k, rate
        return best, best_rate

    def _made(
        self, record: _Record, context: Sequence[int], n: int, state: State, rate: float
    ) -> Draft:
        """Let a drafter that costs something draft `n` tokens, and leave out what won't pay."""
        started = time.perf_counter()
        hidden = state() if record.drafter.wants_hidden else None
        draft = record.drafter.propose(context, n, hidden).first(n)
        if draft.ids:
            record.timed((time.perf_counter() - started) / len(draft.ids))
        record.last_used = self._clock.n_step
        draft = draft.first(self._worth_checking(record.chances(draft), rate))
        self._proposed.append((record, draft))
        return draft

    def _worth_checking(self, chances: Iterable[float], rate: float) -> int:
        """Tokens up to the first whose chance does not pay for checking it too, at that `rate`.

        Decided one by one: whether a token drawn by chance is checked must not depend on what
        was drawn after it, or the distribution would shift.
        """
        stands, n = 1.0, 0
        for n, chance in enumerate(chances, 1):
            stands *= chance
            if stands < rate * (self._clock.cost[n + 1] - self._clock.cost[n]):
                return n - 1
        return n
