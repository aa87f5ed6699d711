"""Replies with a drafter against replies without: tokens, rollback, hidden states, limits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.drafter import Draft
from tests.runtime.tiny_models import N_VOCAB, random_model, reference_logits, write_model

PROMPT = np.random.default_rng(5).integers(0, N_VOCAB, 20).tolist()
GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=1.5, seed=4)


class Oracle:
    """Knows the reply, but is right only as often as `accuracy` says; remembers what it was told.

    With `by_chance` it draws each token: from the right one and a wrong one.
    """

    name = "oracle"

    def __init__(self, reply: Sequence[int], accuracy: float, wants_hidden: bool = False) -> None:
        self.reply, self.accuracy, self.wants_hidden = reply, accuracy, wants_hidden
        self.random = np.random.default_rng(2)
        self.asked: list[int] = []
        self.hidden: dict[int, NDArray[np.float32]] = {}

    def begin(self, sampler: Sampler) -> None:
        self.sampler = sampler

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        self.asked.append(n)
        if hidden is not None:
            self.hidden[len(context) - 2] = hidden
        start = len(context) - len(PROMPT)
        right = self.random.random(n) < self.accuracy
        ids = list(self.reply[start : start + n])
        return Draft([t if r else (t + 1) % N_VOCAB for t, r in zip(ids, right, strict=False)])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speculate")
    return write_model(folder / "llama.gguf", random_model("llama"), "llama")


def reply(engine: Engine, sampling: Sampling, n: int, *draft: object) -> list[int]:
    return [step.token_id for step in engine.generate(PROMPT, sampling, n, *draft)]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
def test_a_reply_is_the_same_with_any_draft(
    llama: Path, sampling: Sampling, cache_type: str
) -> None:
    with Engine.open(llama, cache_type=cache_type, n_threads=2) as engine:
        plain = reply(engine, sampling, 60)
        for accuracy in (0.0, 0.6, 1.0):
            for n_draft in (1, 3, 12):
                oracle = Oracle(plain, accuracy)
                assert reply(engine, sampling, 60, oracle, n_draft) == plain
                assert oracle.asked


def test_good_drafts_save_steps_and_bad_ones_are_rolled_back(llama: Path) -> None:
    with Engine.open(llama) as engine:
        plain = reply(engine, GREEDY, 41)
        good, bad = Oracle(plain, 1.0), Oracle(plain, 0.0)
        reply(engine, GREEDY, 41, good, 4)
        assert good.asked == [4] * 8  # 1 + 8 · 5 tokens
        reply(engine, GREEDY, 41, bad, 4)
        assert bad.asked == [4] * 36 + [3, 2, 1]
        assert list(engine.caches[0].ids) == PROMPT + plain[:-1]
        going_on = engine.advance(plain[-1:], 60).copy()
        assert (going_on == engine.logits(PROMPT + plain)[-1]).all()


def test_no_draft_reaches_beyond_the_reply_or_the_context(llama: Path) -> None:
    with Engine.open(llama, n_ctx=40) as engine:
        plain = reply(engine, GREEDY, -1)
        assert len(plain) == 20
        for n_predict in (-1, 1, 2, 20):
            oracle = Oracle([*plain, 0, 0, 0, 0, 0, 0, 0, 0], 1.0)
            n = len(plain) if n_predict < 0 else n_predict
            assert reply(engine, GREEDY, n_predict, oracle, 7) == plain[:n]


def test_the_timings_count_tokens_not_steps(llama: Path) -> None:
    with Engine.open(llama) as engine:
        plain = reply(engine, GREEDY, 41)
        reply(engine, GREEDY, 41, Oracle(plain, 1.0), 4)
        assert engine.timings.n_generated == 40


def test_a_drafter_sees_the_state_that_the_last_token_was_drawn_from(tmp_path: Path) -> None:
    model = random_model("llama")
    path = write_model(tmp_path / "model.gguf", model, "llama")
    with Engine.open(path, cache_type="f32") as engine:
        plain = reply(engine, GREEDY, 30)
        oracle = Oracle(plain, 0.6, wants_hidden=True)
        assert reply(engine, GREEDY, 30, oracle, 3) == plain
    assert len(oracle.hidden) > 10
    assert min(oracle.hidden) == len(PROMPT) - 1
    head = model.lm_head.weight.detach().numpy()
    expected = reference_logits(model, PROMPT + plain)
    for position, state in oracle.hidden.items():
        assert np.abs(state @ head.T - expected[position]).max() < 1e-3 * np.ptp(expected)
