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

from csaq_runtime.sample import Sampler
from csaq_runtime.speculate.credit import SHARE, Credit
from csaq_runtime.speculate.draft_clock import DISTURBED, DraftClock
from csaq_runtime.speculate.drafter import NOTHING, Draft, Drafter
from csaq_runtime.speculate.odds import Odds, confidence_bin
from csaq_runtime.speculate.step_clock import StepClock
from csaq_runtime.speculate.strategy import State

MARGIN = 1.02
"""Yield per time, relative to plain, from which on a draft is worth the trouble."""

REFRESH, RETRY = 64, 48
"""Steps after which a plain one is measured again, and an unused drafter tried again."""

HOPELESS = 0.05
"""Chance of a token below which nothing after it is considered."""

REST = 16
"""Steps without a thought of drafting once the credit is used up: thinking costs time, too."""

N_PROBE = 2
POSITION_PRIOR = (0.6,) * 16


@dataclass
class _Record:
    """What is known about one drafter."""

    drafter: Drafter
    clock: DraftClock
    by_confidence: Odds = field(default_factory=Odds.by_confidence)
    by_position: Odds = field(default_factory=lambda: Odds(POSITION_PRIOR))
    last_used: int = -RETRY

    def chances(self, draft: Draft) -> Iterator[float]:
        """Of each drafted token, that it stands if those before it do."""
        if not draft.confidence:
            return (self.by_position.of(i) for i in range(len(draft.ids)))
        return (self.by_confidence.of(confidence_bin(c)) for c in draft.confidence)

    def observe(self, draft: Draft, tokens: Sequence[int]) -> None:
        """Compare a draft with the tokens that came, up to the first that differs."""
        for index, (guess, token) in enumerate(zip(draft.ids, tokens, strict=False)):
            self.by_position.observe(index, guess == token)
            if draft.confidence:
                self.by_confidence.observe(confidence_bin(draft.confidence[index]), guess == token)
            if guess != token:
                return


class Auto:
    """Chooses among `drafters`, at most `n_max` tokens at a time. Knowledge outlives replies."""

    def __init__(self, drafters: Sequence[Drafter], n_max: int) -> None:
        self._records = [_Record(d, DraftClock(d.name, n_max)) for d in drafters]
        self._n_max = n_max
        self._clock, self._credit = StepClock(n_max + 1), Credit()
        self._proposed: list[tuple[_Record, Draft]] = []
        self._n_sent = self._rest = 0
        self._learning = self._thinking = self._risked = 0.0

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
        if self._rest > 1:
            self._rest -= 1
            return
        started = time.perf_counter()
        if self._rest:
            self._end_rest()
        else:
            self._observe(tokens, draft_seconds, step_seconds)
        if not self._n_sent and self._should_rest():
            self._rest = REST
        # Known only now: it is paid for with the next step.
        self._learning = time.perf_counter() - started

    def _observe(self, tokens: Sequence[int], draft_seconds: float, step_seconds: float) -> None:
        clock = self._clock
        clock.observe(1 + self._n_sent, step_seconds)
        clock.forget_stale()
        for record, draft in self._proposed:
            record.observe(draft, tokens)
        spent, worth = draft_seconds + step_seconds, step_seconds
        if self._n_sent:
            worth = len(tokens) * clock.plain
            # What an interruption took is not charged, and no gain either.
            spent = min(spent, max(DISTURBED * (self._risked + clock.plain), worth))
        self._thinking = draft_seconds + self._learning
        self._credit.settle(spent + self._learning, worth, clock.plain)

    def _end_rest(self) -> None:
        self._rest, seconds = 0, REST * self._clock.plain
        self._clock.n_step += REST
        self._credit.settle(seconds + self._learning, seconds, self._clock.plain)

    def _should_rest(self) -> bool:
        """Whether no draft is covered, or one is saved up for that thinking would cost."""
        covered = [self._dares(1, record) for record in self._records]
        is_dear = self._thinking > SHARE * self._clock.plain
        return not any(covered) or (is_dear and self._saves(covered))

    def _saves(self, covered: Sequence[bool]) -> bool:
        """Whether it is time to try a drafter again that is not covered, but for thinking less."""
        return any(
            not record.clock.per_draft and not dared and self._is_due(record)
            for record, dared in zip(self._records, covered, strict=True)
        )

    def _is_due(self, record: _Record) -> bool:
        """Whether a drafter has not been tried for long."""
        return self._clock.n_step - record.last_used > RETRY

    def _chosen(self, context: Sequence[int], n: int, state: State) -> Draft:
        clock = self._clock
        if n < 1 or clock.plain == 0 or clock.age(1) > REFRESH:
            return NOTHING
        draft, rate = NOTHING, MARGIN
        for record in self._records:
            if record.clock.per_draft:
                found = self._looked_up(record, context, n)
                k, promised = self._best_length(record.chances(found), record, is_made=True)
                if promised > rate:
                    draft, rate = found.first(k), promised
                    self._risked = self._risk(k, record)
                continue
            k, promised = self._promise(record, n)
            if promised <= rate and self._is_due(record):
                k, promised = min(N_PROBE if self._dares(N_PROBE, record) else 1, n), rate
            if k and promised >= rate and self._dares(k, record):
                return self._made(record, context, k, state, rate)
        return draft

    def _risk(self, k: int, record: _Record) -> float:
        """Seconds lost by a draft of `k` tokens of which none stands."""
        plain = self._clock.plain
        return record.clock.seconds(k, plain) + (self._clock.cost[k + 1] - 1) * plain

    def _dares(self, k: int, record: _Record) -> bool:
        """Whether the credit covers that."""
        return self._credit.covers(self._risk(k, record))

    def _looked_up(self, record: _Record, context: Sequence[int], n: int) -> Draft:
        """A look-up's draft, which is learnt from whether it is used or not.

        Only while the credit lasts for using it, too.
        """
        if not self._dares(1, record):
            return NOTHING
        started = time.perf_counter()
        draft = record.drafter.propose(context, n, None).first(n)
        record.clock.observe(1, time.perf_counter() - started, self._clock.plain)
        self._proposed.append((record, draft))
        return draft

    def _promise(self, record: _Record, n: int) -> tuple[int, float]:
        """Best length and yield per time of a drafter that has not drafted yet."""
        chances = (record.by_position.of(index) for index in range(n))
        return self._best_length(chances, record)

    def _best_length(
        self, chances: Iterable[float], record: _Record, is_made: bool = False
    ) -> tuple[int, float]:
        """How many tokens of those `chances` to draft, and the yield per time relative to plain.

        is_made: drafting them costs nothing any more.
        """
        clock, best, best_rate = self._clock, 0, 1.0
        plain, tokens, stands = clock.plain, 1.0, 1.0
        for k, chance in enumerate(chances, 1):
            stands *= chance
            if stands < HOPELESS or not self._dares(k, record):
                break
            tokens += stands
            drafting = 0.0 if is_made else record.clock.seconds(k, plain)
            rate = tokens / (clock.cost[k + 1] + drafting / plain)
            if rate > best_rate:
                best, best_rate = k, rate
        return best, best_rate

    def _made(
        self, record: _Record, context: Sequence[int], n: int, state: State, rate: float
    ) -> Draft:
        """Let a drafter that costs something draft `n` tokens, and leave out what won't pay."""
        self._risked = self._risk(n, record)
        started = time.perf_counter()
        hidden = state() if record.drafter.wants_hidden else None
        draft = record.drafter.propose(context, n, hidden).first(n)
        if draft.ids:
            record.clock.observe(len(draft.ids), time.perf_counter() - started, self._clock.plain)
        record.last_used = self._clock.n_step
        # What is left out is learnt from, too: one that fell out of favour can come back.
        self._proposed.append((record, draft))
        is_drawn = draft.drawn_from is not None
        return draft.first(self._worth_checking(record.chances(draft), rate, is_drawn))

    def _worth_checking(self, chances: Iterable[float], rate: float, is_drawn: bool) -> int:
        """Tokens that pay best for checking them, at that `rate`.

        Where they were drawn by chance each is decided on by itself: whether one is checked must
        not depend on what was drawn after it, or the distribution would shift.
        """
        cost, stands, gain, best, most = self._clock.cost, 1.0, 0.0, 0, 0.0
        for n, chance in enumerate(chances, 1):
            stands *= chance
            gain += stands - rate * (cost[n + 1] - cost[n])
            if gain >= most:
                best, most = n, gain
            elif is_drawn:
                break
        return best
