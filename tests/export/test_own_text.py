"""A model writes windows of its own: drawn by seed, as likely as it finds them, resumable."""

import pytest
import torch

from csaq_export.own_text import write_calibration
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import UsageError
from tests.export.models import build_model, byte_level_tokenizer


@pytest.fixture(scope="module")
def model():
    return build_model("llama", num_hidden_layers=1)


def written(model, folder, n_sample=20, seed=0):
    tokenizer = byte_level_tokenizer("llama-bpe")
    shape = (n_sample, 6, seed)
    return write_calibration(model, tokenizer, shape, WorkDir(folder), {}, lambda *step: None)


def test_windows_begin_a_text_and_follow_the_seed(model, tmp_path):
    one = written(model, tmp_path / "one")
    assert one.tokens.shape == (20, 6)
    assert one.tokens[:, 0].tolist() == [0] * 20
    assert one.sha256 == written(model, tmp_path / "again").sha256
    assert one.sha256 != written(model, tmp_path / "other", seed=1).sha256
    assert len({tuple(window) for window in one.tokens.tolist()}) == 20


def test_tokens_are_drawn_as_the_model_predicts_them(model, tmp_path):
    drawn = written(model, tmp_path, n_sample=320).tokens[:, 1]
    with torch.no_grad():
        expected = model(torch.zeros(1, 1, dtype=torch.long)).logits[0, 0].softmax(-1)
    top = expected.topk(8).indices
    share = torch.stack([(drawn == token).float().mean() for token in top])
    assert float((share - expected[top]).abs().max()) < 4 * float((expected[top[0]] / 320) ** 0.5)


def test_where_a_text_ends_the_next_one_begins(tmp_path):
    model = build_model("llama", num_hidden_layers=1)
    with torch.no_grad():
        model.lm_head.weight[0] = model.lm_head.weight.mean(0) + 0.5
    assert model.generation_config.eos_token_id == 0
    tokens = written(model, tmp_path, n_sample=100).tokens
    after = tokens[:, 2:][tokens[:, 1:-1] == 0]
    assert len(after) > 0
    assert bool((after != 0).any())


def test_what_is_written_is_not_written_again(model, tmp_path, monkeypatch):
    first = written(model, tmp_path)
    monkeypatch.setattr(model, "generate", None)
    assert torch.equal(written(model, tmp_path).tokens, first.tokens)


def test_text_of_another_shape_is_refused(model, tmp_path):
    written(model, tmp_path)
    with pytest.raises(UsageError, match="made with text"):
        written(model, tmp_path, n_sample=10)
