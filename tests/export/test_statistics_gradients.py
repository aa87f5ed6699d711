"""Gradients of single weights are those of autograd over the whole model."""

import pytest
import torch
from torch import nn

from csaq_export.calibration import Calibration
from csaq_export.layered_model import open_layered
from csaq_export.statistics.gradients import NO_LABEL, collect_gradients
from csaq_export.statistics.stages import Collection, Run
from csaq_export.torch_model import load_torch_model
from csaq_export.workdir import WorkDir
from tests.export.models import N_VOCAB, save_folder

NAMES = ("blk.0.attn_q.weight", "blk.2.ffn_down.weight")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama")
    return path


def collected(folder, work, labels, tokens):
    model, device = open_layered(folder), torch.device("cpu")
    windows = Calibration(tokens, "random", "0", 0)
    decoder = model.decoder(tokens.shape[1], device)
    run = Run(decoder, windows, WorkDir(work), {}, Collection(2, device, 0.0, {}))
    return collect_gradients(run, model, labels, lambda *_: None)


def test_sums_are_those_of_the_whole_model_in_gguf_order(folder, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, N_VOCAB, (5, 12), generator=generator)
    labels = torch.randint(0, N_VOCAB, (5, 12), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.6] = NO_LABEL
    found = collected(folder, tmp_path, labels, tokens)
    whole = load_torch_model(folder)
    for name in NAMES:
        parameter = whole.parameter(name).requires_grad_(True)
        gradient = salience = torch.zeros_like(parameter)
        for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
            logits = whole.model(tokens[rows]).logits.flatten(0, 1)
            wanted = labels[rows].flatten()
            loss = nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum")
            (each,) = torch.autograd.grad(loss, [parameter])
            gradient, salience = gradient + each, salience + (each * parameter).abs()
        expected = whole.to_gguf(name, gradient), whole.to_gguf(name, salience.detach())
        torch.testing.assert_close(found.gradient(name), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.salience(name), expected[1], rtol=1e-4, atol=1e-5)


def test_what_is_kept_is_not_made_again(folder, tmp_path, monkeypatch):
    tokens = torch.zeros(2, 8, dtype=torch.long)
    first = collected(folder, tmp_path, None, tokens).gradient(NAMES[0])
    monkeypatch.setattr(torch.autograd, "backward", lambda *_: pytest.fail("collected again"))
    assert torch.equal(collected(folder, tmp_path, None, tokens).gradient(NAMES[0]), first)
