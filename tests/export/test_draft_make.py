"""`csaq draft`: the head in the file is the one that was trained, and training can be resumed."""

import pytest
import torch
from safetensors.torch import load_file

from csaq_export.draft import distill as distilling
from csaq_export.draft import write as writing
from csaq_export.draft.head import DraftHead
from csaq_export.draft.make import make_head
from csaq_export.draft.passages import collect_passages
from csaq_export.torch_model import load_torch_model
from csaq_export.workdir import WorkDir
from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate import head as drafting_head
from tests.export.draft_models import drafter_of, drafting, model_with_head

N_DRAFT = 3


def trained(folder, seq_len):
    """The head whose weights the work dir holds, with the tokens that the file lists."""
    stage = load_file(folder / "work" / "head.safetensors")
    with open_gguf(folder / "model-draft.gguf") as file:
        ids = torch.from_numpy(file.data("draft_ids")[0].view("<i4").copy()).long()
    model = load_torch_model(folder).model
    n_ff = stage["weight.gate.weight"].shape[0]
    head = DraftHead(model, ids, n_ff, seq_len)
    head.load_state_dict(
        {k.removeprefix("weight."): v for k, v in stage.items() if k.startswith("weight.")},
        strict=False,
    )
    return model, head


@pytest.mark.parametrize("kind", ["llama3-tied", "qwen2", "qwen3"])
def test_the_runtime_drafts_what_the_trained_head_says(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(writing, "MATRIX_TYPES", (GGMLType.F32,))
    monkeypatch.setattr(drafting_head, "LEAST", 0.0)
    model_with_head(tmp_path, kind)
    context = list(range(40, 60))
    with Engine.open(tmp_path / "model.gguf", cache_type="f32", spec="head") as engine:
        logits = engine.advance(context[:-1], 0)
        assert logits.size == engine.hparams.n_vocab
        drafter = drafter_of(engine)
        drafter.begin(Sampler(Sampling()))
        draft = drafter.propose(context, N_DRAFT, engine._stepper.hidden(0))
    model, head = trained(tmp_path, len(context) + N_DRAFT)
    tokens = torch.tensor([context + list(draft.ids)])
    passages = collect_passages(model, tokens, WorkDir(tmp_path / "one"), {}, lambda *step: None)
    with torch.no_grad():
        guesses = head.rollout(passages, N_DRAFT + 1)
    at = len(context) - 2
    for token, confidence, guess in zip(draft.ids, draft.confidence, guesses, strict=False):
        likely = guess.logits[0, at].softmax(-1)
        assert int(head.ids[likely.argmax()]) == token
        assert float(likely.max()) == pytest.approx(confidence, rel=0.02)


def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, monkeypatch):
    model_with_head(tmp_path, "llama")
    whole = (tmp_path / "model-draft.gguf").read_bytes()
    monkeypatch.setattr(distilling, "_STEPS_PER_STAGE", 1)
    stopped = drafting(tmp_path, out=tmp_path / "again.gguf")

    def stop(stage, done, total):
        if stage == "training the head" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_head(stopped, WorkDir(tmp_path / "stopped"), stop)
    assert not stopped.out.exists()
    asked = []
    make_head(stopped, WorkDir(tmp_path / "stopped"), lambda *step: asked.append(step))
    assert [done for stage, done, _ in asked if stage == "training the head"] == [2, 3]
    assert stopped.out.read_bytes() == whole


def test_training_makes_the_head_agree_more_often(tmp_path):
    before = model_with_head(tmp_path, "llama")
    longer = drafting(tmp_path, out=tmp_path / "longer.gguf", n_step=30)
    after = make_head(longer, WorkDir(tmp_path / "longer"), lambda *step: None)
    assert sum(after.agreement) > sum(before.agreement)
    with open_gguf(longer.out) as file:
        assert file.numbers("csaq.draft.agreement").tolist() == pytest.approx(after.agreement)


def test_windows_beyond_the_context_are_refused(tmp_path):
    model_with_head(tmp_path, "llama")
    with pytest.raises(UsageError, match="context has 128"):
        make_head(drafting(tmp_path, seq_len=200, force=True), WorkDir(tmp_path), print)
