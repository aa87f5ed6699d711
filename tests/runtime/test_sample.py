"""Sampling: every filter against its definition, and draws against their probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.sample import (
    Sampler,
    Sampling,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize,
    softmax,
)

LOGITS = arrays(
    np.float32, st.integers(1, 500), elements=st.floats(-30, 30, width=32, allow_nan=False)
)


@given(LOGITS, st.integers(-1, 600))
def test_top_k_keeps_the_largest_sorted(logits: np.ndarray, top_k: int) -> None:
    ids = keep_top_k(logits, top_k)
    k = logits.size if top_k <= 0 else min(top_k, logits.size)
    assert (logits[ids] == np.sort(logits)[::-1][:k]).all()
    assert len(set(ids.tolist())) == k


def test_top_k_of_a_large_vocabulary_agrees_with_a_full_sort() -> None:
    logits = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    assert (keep_top_k(logits, 40) == np.argsort(-logits, kind="stable")[:40]).all()


@given(LOGITS, st.floats(0, 1.2))
def test_top_p_keeps_the_shortest_sufficient_prefix(logits: np.ndarray, top_p: float) -> None:
    ids = keep_top_k(logits, 0)
    kept = keep_top_p(logits, ids, top_p)
    probabilities = softmax(logits[ids].astype(np.float64))
    assert 1 <= kept.size <= ids.size
    assert kept.size == ids.size or probabilities[: kept.size].sum() >= top_p - 1e-9
    assert kept.size == 1 or probabilities[: kept.size - 1].sum() < top_p + 1e-9


@given(LOGITS, st.floats(0, 1))
def test_min_p_keeps_what_is_probable_enough(logits: np.ndarray, min_p: float) -> None:
    ids = keep_top_k(logits, 0)
    kept = set(keep_min_p(logits, ids, min_p).tolist())
    ratio = np.exp(logits.astype(np.float64) - logits.max())
    assert {i for i in range(logits.size) if ratio[i] > min_p * 1.001} <= kept
    assert all(ratio[i] >= min_p * 0.999 for i in kept)


@given(LOGITS, st.lists(st.integers(0, 499), max_size=80), st.integers(-1, 64))
def test_penalty_pushes_recent_ids_down_only(
    logits: np.ndarray, context: list[int], last_n: int
) -> None:
    context = [id % logits.size for id in context]
    sampling = Sampling(repeat_penalty=1.3, repeat_last_n=last_n)
    penalized = penalize(logits, context, sampling)
    recent = set(context if last_n == -1 else context[len(context) - min(last_n, len(context)) :])
    for id in range(logits.size):
        if id in recent:
            assert penalized[id] <= logits[id]
        else:
            assert penalized[id] == logits[id]


@given(LOGITS)
def test_temperature_zero_takes_the_largest(logits: np.ndarray) -> None:
    assert Sampler(Sampling(temperature=0)).sample(logits, []) == int(logits.argmax())


def test_nothing_is_drawn_at_temperature_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "default_rng", None)
    sampler = Sampler(Sampling(temperature=0))
    assert [one.sample(np.float32([0, 2, 1]), []) for one in (sampler, sampler.spawn())] == [1, 1]
    with pytest.raises(TypeError):
        Sampler(Sampling()).spawn()


@given(LOGITS, st.integers(0, 2**31))
def test_equal_seeds_draw_equal_ids(logits: np.ndarray, seed: int) -> None:
    draws = [
        [sampler.sample(logits, []) for _ in range(5)]
        for sampler in (Sampler(Sampling(seed=seed)), Sampler(Sampling(seed=seed)))
    ]
    assert draws[0] == draws[1]


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=1))
    counts = np.bincount([sampler.sample(logits, []) for _ in range(20000)], minlength=4)
    assert np.abs(counts / 20000 - np.exp(logits)).max() < 0.015


def test_filters_narrow_the_draw() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for sampling in (
        Sampling(temperature=1, top_k=2, top_p=1, min_p=0, seed=1),
        Sampling(temperature=1, top_k=0, top_p=0.7, min_p=0, seed=1),
        Sampling(temperature=1, top_k=0, top_p=1, min_p=0.5, seed=1),
    ):
        sampler = Sampler(sampling)
        assert {sampler.sample(logits, []) for _ in range(200)} == {0, 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": float("nan")},
        {"repeat_penalty": 0.0},
        {"repeat_last_n": -2},
        {"seed": -1},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="finite"):
        Sampler(Sampling()).sample(np.array([0.0, np.nan], np.float32), [])
