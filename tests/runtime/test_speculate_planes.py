"""Drafts from the upper planes of a model's own weights."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampling
from csaq_runtime.speculate.planes import PlanesDrafter
from tests.export.draft_models import drafter_of
from tests.runtime.tiny_models import (
    N_VOCAB,
    gguf_keys,
    gguf_tensors,
    random_model,
    write_gguf,
    write_model,
)

PROMPT = np.random.default_rng(5).integers(0, N_VOCAB, 20).tolist()


def written(path: Path, kind: gguf.GGMLQuantizationType) -> Path:
    model = random_model("llama", intermediate_size=128)
    return write_gguf(path, "llama", gguf_keys(model, "llama"), gguf_tensors(model, "llama"), kind)


def reply(engine: Engine, sampling: Sampling, *draft: object) -> list[int]:
    return [step.token_id for step in engine.generate(PROMPT, sampling, 60, *draft)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["Q8_0", "BF16"])
def test_greedy_replies_are_the_same_and_drafts_right_at_times(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind])
    greedy = Sampling(temperature=0)
    with Engine.open(path, n_threads=2) as engine:
        plain = reply(engine, greedy)
    with Engine.open(path, n_threads=2, spec="planes") as engine:
        drafter = drafter_of(engine)
        assert isinstance(drafter, PlanesDrafter)
        for n_draft in (1, 4):
            assert reply(engine, greedy, drafter, n_draft) == plain
            tally = engine.timings.draft
            assert tally.n_accepted > 0.3 * tally.n_drafted > 0
        assert reply(engine, greedy) == plain
        assert len(reply(engine, Sampling(temperature=1.0, seed=3), drafter, 4)) == 60


def test_there_must_be_something_to_divide(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", random_model("llama"), "llama")
    with pytest.raises(UsageError, match="BF16"):
        Engine.open(path, spec="planes")
