"""Drafts by a head and by planes behind a server: replies are those of `--spec off`."""

from pathlib import Path
from typing import Literal

import pytest

from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampling
from csaq_runtime.server.scheduler import Scheduler
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.strategy import Fixed, State
from tests.export.draft_models import model_with_head
from tests.server.test_scheduler import GREEDY, alone, check_replies


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BF16 file with a head beside it."""
    folder = tmp_path_factory.mktemp("drafting")
    model_with_head(folder, "llama")
    convert(Conversion(str(folder), folder / "model-BF16.gguf", "BF16"))
    return folder / "model-BF16.gguf"


class Counted(Fixed):
    """Counts the tokens it drafts."""

    n_drafted = 0

    def draft(self, context: list[int], n: int, state: State) -> Draft:  # type: ignore[override]
        found = super().draft(context, n, state)
        self.n_drafted += len(found.ids)
        return found


@pytest.mark.parametrize("spec", ["head", "planes"])
def test_replies_are_those_without_drafts(
    model: Path, spec: Literal["head", "planes"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a draft in every step, and where the strategy sees fit; greedy and drawn."""
    monkeypatch.setattr("csaq_runtime.speculate.head.LEAST", 0.0)
    options = {"n_threads": 2, "n_sequence": 8, "n_batch": 64}
    with Engine.open(model, n_ctx=256, spec=spec, **options) as engine:  # type: ignore[arg-type]
        assert engine._drafter is not None
        scheduler = Scheduler(engine, max_waiting=4)
        chosen, counted = engine.strategy, Counted(engine._drafter, 4)
        for sampling in (GREEDY, Sampling(temperature=1.2, seed=5)):
            expected = alone(model, sampling)
            for strategy in (chosen, counted):
                engine.strategy = strategy
                check_replies(engine, scheduler, sampling, expected, 1)
        scheduler.close()
    assert counted.n_drafted > 500
