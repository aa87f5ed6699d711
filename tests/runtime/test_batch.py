"""Several sequences in one step: each computes what it computes alone, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from tests.runtime.tiny_models import N_VOCAB, random_model, write_model

RANDOM = np.random.default_rng(3)
TEXTS = [RANDOM.integers(0, N_VOCAB, n).tolist() for n in (40, 3, 17, 33, 1, 24, 50, 9)]


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("batch") / "model.gguf"
    return write_model(path, random_model(request.param), request.param)


def logits_alone(path: Path) -> list[NDArray[np.float32]]:
    with Engine.open(path, n_threads=1) as engine:
        return [engine.logits(ids) for ids in TEXTS]


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_sequences_that_advance_together_do_not_change_a_bit(model: Path, n_threads: int) -> None:
    expected = logits_alone(model)
    with Engine.open(model, n_threads=n_threads, n_sequence=len(TEXTS)) as engine:
        left = [list(ids) for ids in TEXTS]
        while any(left):
            # Lengths that differ from sequence to sequence and from step to step.
            taken = [ids[: int(RANDOM.integers(0, 6))] for ids in left]
            wanted = [int(RANDOM.integers(0, len(ids) + 1)) for ids in taken]
            spans = [
                Span(cache, ids, n_output)
                for cache, ids, n_output in zip(engine.caches, taken, wanted, strict=True)
                if ids
            ]
            if not spans:
                continue
            logits, row = engine.step(spans), 0
            for index, (ids, n_output) in enumerate(zip(taken, wanted, strict=True)):
                left[index] = left[index][len(ids) :]
                stop = len(TEXTS[index]) - len(left[index])
                found = logits[row : row + n_output]
                assert (found == expected[index][stop - n_output : stop]).all()
                row += n_output
            assert row == len(logits)


def test_a_batch_that_does_not_fit_runs_no_kernel(model: Path) -> None:
    with Engine.open(model, n_ctx=16, n_threads=1, n_sequence=2) as engine:
        first, second = engine.caches
        engine.step([Span(first, [1] * 10, 0)])
        with pytest.raises(UsageError, match="does not fit"):
            engine.step([Span(second, [1], 1), Span(first, [1] * 7, 1)])
        with pytest.raises(UsageError, match="token ids"):
            engine.step([Span(first, [N_VOCAB], 1)])
        with pytest.raises(ValueError, match="one sequence"):
            engine.step([Span(first, [1], 1), Span(first, [1], 1)])
        assert (first.n_past, second.n_past) == (10, 0)


def test_memory_is_asked_for_every_sequence(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("csaq_runtime.engine.check_memory", lambda *given: asked.append(given[4]))
    Engine.open(model, n_threads=1, n_sequence=5).close()
    assert asked == [5]
    with pytest.raises(UsageError, match="sequences"):
        Engine.open(model, n_sequence=0)
