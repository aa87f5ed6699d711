import pytest
import torch
from torch import nn

from csaq_export import CausalProfiler, CSAQConfig, build_calibration_data
from csaq_export.statistics.labels import sampled_labels
from csaq_runtime.errors import UsageError
from tests.export.models import TEXT, build_model, byte_level_tokenizer

UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def windows():
    return build_calibration_data(byte_level_tokenizer("llama-bpe"), TEXT, n=28, seq_len=16)


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


def test_salience_is_the_mean_of_gradient_times_weight(model, windows):
    with CausalProfiler(model, CSAQConfig()) as profiler:
        salience, _ = profiler.profile(windows[:3])
    linears = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"}
    assert set(salience) == linears
    weight = model.get_submodule(UP).weight
    total = torch.zeros_like(weight)
    for number, window in enumerate(windows[:3]):
        logits = model(window["input_ids"]).logits
        labels = sampled_labels(logits.detach(), 0, number)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
        total += (torch.autograd.grad(loss, weight)[0] * weight).abs().detach()
    assert salience[UP].n_col == weight.shape[1]
    torch.testing.assert_close(salience[UP].rows, (total / 3).sum(1), rtol=1e-3, atol=1e-5)


def test_cliques_are_of_rows_that_fire_together(windows):
    model = build_model("llama", seed=1)
    with torch.no_grad():
        up = model.get_submodule(UP).weight
        up[3] *= 3
        up[5] *= 3
        up[7], up[30], up[31] = up[3], up[5] * 1.01, -up[5]
    with CausalProfiler(model, CSAQConfig(clique_threshold=0.9)) as profiler:
        _, cliques = profiler.profile(windows[:8])
    labels = cliques[UP].labels
    groups = [set(torch.nonzero(labels == label)[:, 0].tolist()) for label in range(2)]
    assert {3, 7} in groups
    assert {5, 30, 31} in groups


@pytest.mark.parametrize(("stable", "n_window"), [(0.5, 24), (1.1, 28)])
def test_profiling_ends_when_the_ranking_is_stable(model, windows, monkeypatch, stable, n_window):
    """16 windows, then 8 at a time; at no correlation of 1.1 it takes them all."""
    monkeypatch.setattr("csaq_export.hf.profiler.STABLE", stable)
    with CausalProfiler(model, CSAQConfig()) as profiler:
        profiler.profile(windows[:28])
        assert profiler.n_window == n_window


def test_the_model_is_left_as_it_was(windows):
    model = build_model("qwen2-tied").train()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.lm_head.weight.requires_grad_(False)
    with CausalProfiler(model, CSAQConfig()) as profiler:
        profiler.profile(windows[:2])
    assert model.training
    assert not model.lm_head.weight.requires_grad
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model.get_submodule(UP).weight.requires_grad


def test_statistics_are_dropped_at_the_end(model, windows):
    with CausalProfiler(model, CSAQConfig()) as profiler:
        with pytest.raises(UsageError, match="profiled"):
            profiler.sensitivity(UP)
        profiler.profile(windows[:2])
        assert profiler.sensitivity(UP).loss(torch.ones(96, 64)) > 0
        folder = profiler._folder
        assert folder.exists()
    assert not folder.exists()
