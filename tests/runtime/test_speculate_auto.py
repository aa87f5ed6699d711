"""Choosing drafter and length: simulated models whose costs and acceptance are known."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate import auto as module
from csaq_runtime.speculate.auto import RETRY, Auto
from csaq_runtime.speculate.drafter import Draft

PLAIN = 0.01
CHEAP = [0, 1.0, *(1 + 0.08 * k for k in range(1, 20))]
DEAR = [0, 1.0, *(1 + 1.0 * k for k in range(1, 20))]


class World:
    """Time that stands still but for drafting and steps, and a reply whose ids are positions."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, cost: Sequence[float], think: float = 0
    ) -> None:
        self.now, self.cost, self.random = 0.0, cost, np.random.default_rng(8)
        self.n_right = self.n_step = 0
        self.lengths: list[int] = []
        self.think = think
        monkeypatch.setattr(module.time, "perf_counter", self.tick)

    def tick(self) -> float:
        """Whoever looks at the clock has thought for a while."""
        self.now += PLAIN * self.think
        return self.now

    def run(self, auto: Auto, n_token: int) -> float:
        """Speed against plain of a reply of `n_token` tokens."""
        auto.begin(Sampler(Sampling()))
        context, begun = [0], self.now
        states = np.zeros((1, 4), np.float32)
        while len(context) <= n_token:
            started = self.now
            draft = auto.draft(context, 16, lambda: states)
            drafted = self.now
            tokens = self.stand(len(context), draft.ids)
            self.now += PLAIN * self.cost[1 + len(draft.ids)]
            self.lengths.append(len(draft.ids))
            auto.learn(tokens, drafted - started, self.now - drafted)
            context += tokens
        return (len(context) - 1) * PLAIN / (self.now - begun)

    @staticmethod
    def stand(position: int, ids: Sequence[int]) -> list[int]:
        n = next((i for i, id in enumerate(ids) if id != position + i), len(ids))
        return list(range(position, position + n + 1))


class Guesser:
    """Right with a probability that may depend on the position; drafting takes time."""

    def __init__(self, world: World, name: str, accuracy: Callable[[int], float], cost: float):
        self.name, self.wants_hidden = name, name != "ngram"
        self.world, self.accuracy, self.cost = world, accuracy, cost
        self.n_asked = self.n_seen = 0

    def begin(self, sampler: Sampler) -> None:
        pass

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        assert (hidden is not None) == self.wants_hidden
        self.world.now += PLAIN * self.cost * (1 if self.name == "ngram" else n)
        self.n_asked += 1
        places = range(len(context), len(context) + n)
        right = [self.world.random.random() < self.accuracy(place) for place in places]
        return Draft([p if r else -1 for p, r in zip(places, right, strict=True)])


def test_good_lookups_are_used_at_length(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    auto = Auto([Guesser(world, "ngram", lambda place: 0.97, 0.01)], 15)
    world.run(auto, 200)
    assert world.run(auto, 2000) > 4.5
    assert np.median(world.lengths) > 8


def test_the_length_follows_acceptance_and_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = {}
    for accuracy, cost in ((0.9, CHEAP), (0.6, CHEAP), (0.6, [1 + 3 * (c - 1) for c in CHEAP])):
        world = World(monkeypatch, cost)
        auto = Auto([Guesser(world, "ngram", lambda place, a=accuracy: a, 0.01)], 15)  # type: ignore[misc]
        world.run(auto, 500)
        assert world.run(auto, 500) > 1.2
        lengths[accuracy, cost[2]] = float(np.mean(world.lengths))
    long, middle, short = lengths.values()
    assert long > middle + 2 > short + 2


@pytest.mark.parametrize("cost", [CHEAP, DEAR])
@pytest.mark.parametrize(("name", "draft_cost"), [("ngram", 0.05), ("head", 0.1), ("planes", 0.7)])
def test_a_useless_drafter_costs_less_than_two_percent(
    monkeypatch: pytest.MonkeyPatch, cost: Sequence[float], name: str, draft_cost: float
) -> None:
    world = World(monkeypatch, cost)
    auto = Auto([Guesser(world, name, lambda place: 0.02, draft_cost)], 15)
    assert world.run(auto, 200) > 0.98
    for _ in range(5):
        assert world.run(auto, 300) > 0.98


def test_an_interrupted_first_draft_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    guesser = Guesser(world, "head", lambda place: 0.8, 5.0)
    auto = Auto([guesser], 15)
    world.run(auto, 2)
    assert guesser.n_asked == 1
    guesser.cost = 0.05
    assert world.run(auto, 300) > 1.15
    assert world.run(auto, 300) > 1.4


@pytest.mark.parametrize("names", [["ngram"], ["head"], ["ngram", "head"], ["planes"]])
@pytest.mark.parametrize("accuracy", [0.05, 0.45])
def test_thinking_is_paid_for_on_a_fast_model(
    monkeypatch: pytest.MonkeyPatch, names: list[str], accuracy: float
) -> None:
    world = World(monkeypatch, [1 + 0.5 * (c > 1) + c - 1 for c in CHEAP], think=0.03)
    costs = {"ngram": 0.05, "head": 0.25, "planes": 0.7}
    auto = Auto([Guesser(world, name, lambda place: accuracy, costs[name]) for name in names], 15)
    for n_token in (150, 150, 1000):
        assert world.run(auto, n_token) > 0.98


def test_a_head_is_tried_again_beside_lookups_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP, think=0.02)
    head = Guesser(world, "head", lambda place: 0.9 if place > 2000 else 0.0, 0.1)
    auto = Auto([Guesser(world, "ngram", lambda place: 0.02, 0.02), head], 8)
    assert world.run(auto, 2000) > 0.98
    assert world.run(auto, 8000) > 1.5


def test_one_interruption_does_not_end_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    auto = Auto([Guesser(world, "ngram", lambda place: 0.9, 0.01)], 8)
    world.run(auto, 300)
    draft = auto.draft([0, 1], 8, lambda: np.zeros((1, 4), np.float32))
    auto.learn([2] * (1 + len(draft.ids)), 0.0, 100 * PLAIN)
    assert draft.ids
    assert world.run(auto, 300) > 1.5


@pytest.mark.parametrize("name", ["ngram", "head"])
def test_drafting_stops_where_it_fails_and_comes_back(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world = World(monkeypatch, CHEAP)
    bad = range(1000, 2000)
    accuracy = lambda place: 0.0 if place in bad else 0.9  # noqa: E731
    auto = Auto([Guesser(world, name, accuracy, 0.02)], 8)
    assert world.run(auto, 1000) > 2
    world.lengths.clear()
    auto.begin(Sampler(Sampling()))

    def at(start: int, n: int) -> float:
        context, begun = list(range(start)), world.now
        while len(context) < start + n:
            started = world.now
            draft = auto.draft(context, 8, lambda: np.zeros((1, 4), np.float32))
            drafted = world.now
            tokens = world.stand(len(context), draft.ids)
            world.now += PLAIN * CHEAP[1 + len(draft.ids)]
            world.lengths.append(len(draft.ids))
            auto.learn(tokens, drafted - started, world.now - drafted)
            context += tokens
        return (len(context) - start) * PLAIN / (world.now - begun)

    at(1000, 100)
    world.lengths.clear()
    assert at(1100, 800) > 0.98
    assert np.mean(np.array(world.lengths) > 0) < 0.1
    at(2000, 6 * RETRY)
    assert at(2300, 500) > 2


def test_the_better_of_two_drafters_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    weak = Guesser(world, "ngram", lambda place: 0.3, 0.005)
    strong = Guesser(world, "head", lambda place: 0.8, 0.05)
    alone = world.run(Auto([weak], 8), 1000)
    both = Auto([weak, strong], 8)
    world.run(both, 200)
    assert world.run(both, 1000) > alone + 0.5


def test_plain_steps_are_measured_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    auto = Auto([Guesser(world, "ngram", lambda place: 1.0, 0.0)], 15)
    world.run(auto, 3000)
    assert auto.plain_seconds == pytest.approx(PLAIN)
    assert 0 in world.lengths[-100:]


def test_no_draft_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, CHEAP)
    drafter = Guesser(world, "ngram", lambda place: 1.0, 0.0)
    auto = Auto([drafter], 15)
    world.run(auto, 100)
    drafter.n_asked = 0
    assert auto.draft([0, 1], 0, lambda: np.zeros((1, 4), np.float32)) == Draft()
    assert drafter.n_asked == 0
