"""A head's sidecar: replies stay the same with it; one that does not fit is refused."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from csaq_export.draft.head import DraftHead
from csaq_export.draft.make import target_of
from csaq_export.draft.write import write_head
from csaq_export.torch_model import load_torch_model
from csaq_runtime.engine import Engine
from csaq_runtime.errors import CsaqError, UsageError
from csaq_runtime.sample import Sampling
from csaq_runtime.speculate.head_file import head_beside
from csaq_runtime.speculate.ngram import NGramDrafter
from tests.export.draft_models import drafter_of, model_with_head

GREEDY = Sampling(temperature=0)
PROMPT = np.random.default_rng(5).integers(0, 300, 20).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    model_with_head(folder, "llama")
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    """What `write_head` writes: an untrained head, the target's norm, the target."""
    model = load_torch_model(folder)
    torch.manual_seed(1)
    head = DraftHead(model.model, torch.arange(32), 32, 24)
    return head, model.read("output_norm.weight"), target_of(folder)


def reply(engine, sampling, *draft):
    return [step.token_id for step in engine.generate(PROMPT, sampling, 100, *draft)]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5, seed=3)])
def test_replies_are_those_of_plain_decoding(folder, monkeypatch, sampling):
    monkeypatch.setattr("csaq_runtime.speculate.head.LEAST", 0.0)
    with Engine.open(folder / "model.gguf", n_threads=2) as engine:
        plain = reply(engine, sampling)
    for n_draft, cache_type in ((1, "f16"), (5, "q8_0")):
        path, options = folder / "model.gguf", {"spec": "head", "cache_type": cache_type}
        with Engine.open(path, n_threads=2, **options) as engine:
            if cache_type == "q8_0":
                plain = reply(engine, sampling, NGramDrafter(), 1)
            drafted = reply(engine, sampling, drafter_of(engine), n_draft)
            assert engine.timings.draft.n_drafted >= 50
            assert drafted == plain
            assert reply(engine, sampling) == plain


def test_a_head_is_found_by_the_models_name(folder, tmp_path):
    for name in ("story-draft.gguf", "story-Q4_K_M.gguf", "other-Q4_K_M.gguf"):
        (tmp_path / name).touch()
    assert head_beside(tmp_path / "story-Q4_K_M.gguf") == tmp_path / "story-draft.gguf"
    assert head_beside(tmp_path / "other-Q4_K_M.gguf") is None
    assert head_beside(tmp_path / "story-draft.gguf") is None
    with pytest.raises(UsageError, match="no head lies beside"):
        Engine.open(tmp_path / "other-Q4_K_M.gguf", spec="head")


def test_the_memory_of_a_head_is_asked_for(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("csaq_runtime.engine.check_memory", lambda *given: asked.append(given[5]))
    sidecar = folder / "model-draft.gguf"
    for spec in ("off", "head"):
        Engine.open(folder / "model.gguf", n_threads=1, n_ctx=64, spec=spec).close()
    assert asked[0] == 0
    assert asked[1] > sidecar.stat().st_size


def refused(folder, path, reason):
    with pytest.raises(CsaqError, match=reason):
        Engine.open(folder / "model.gguf", spec="auto", draft_model=path)


def test_a_head_of_another_model_is_refused(folder, parts, tmp_path):
    head, norm, target = parts
    cases = {
        "vocab_size is 321": (norm, replace(target, hparams=replace(target.hparams, n_vocab=321))),
        "tokens_sha256": (norm, replace(target, tokens=target.tokens[::-1])),
        "architecture is 'qwen2'": (norm, replace(target, architecture="qwen2")),
        "final norm differ": (norm * 1.1, target),
    }
    for number, (reason, (values, made_for)) in enumerate(cases.items()):
        path = tmp_path / f"{number}.gguf"
        write_head(path, head, values, made_for, {}, False)
        refused(folder, path, reason)
    refused(folder, folder / "model.gguf", "not a draft head")


def test_a_damaged_head_is_refused(folder, parts, tmp_path):
    head, norm, target = deepcopy(parts)
    path = tmp_path / "head.gguf"

    def written(**changes):
        for name, value in changes.items():
            setattr(head, name, value)
        write_head(path, head, norm, target, {}, True)

    ids = head.ids
    written(ids=torch.tensor([5, -1, 7]))
    refused(folder, path, "item 1: -1 is outside 0 … 319")
    written(ids=torch.tensor([320]))
    refused(folder, path, "item 0: 320 is outside")
    written(ids=ids, state_scale=torch.nn.Parameter(torch.ones(65)))
    refused(folder, path, "state_scale.weight: shape")
    written(state_scale=torch.nn.Parameter(torch.full((64,), torch.nan)))
    with Engine.open(folder / "model.gguf", spec="head", draft_model=path) as engine:
        drafted = reply(engine, GREEDY, drafter_of(engine), 3)
        assert drafted == reply(engine, GREEDY, NGramDrafter(), 3)
    path.write_bytes(path.read_bytes()[:-4096])
    refused(folder, path, "head.gguf")
