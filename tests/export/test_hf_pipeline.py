import json
from math import exp

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from csaq_export import (
    CSAQConfig,
    CSAQInferenceEngine,
    CSAQLinear,
    apply_csaq,
    build_calibration_data,
    compute_perplexity,
    export_csaq_model,
    generate_csaq_report,
    quantize,
)
from csaq_export.hf.clique_budget import CliqueBits
from csaq_runtime.errors import ModelError, UsageError
from tests.export.models import TEXT, build_model, byte_level_tokenizer

SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
IDS = torch.tensor([[5, 17, 60, 3]])
SETTINGS = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer("llama-bpe")


@pytest.fixture(scope="module")
def calib(tokenizer):
    return build_calibration_data(tokenizer, TEXT, n=4, seq_len=32)


@pytest.fixture(scope="module")
def original():
    return build_model("llama", **SHAPE)


@pytest.fixture(scope="module")
def made(calib):
    return quantize(build_model("llama", **SHAPE), calib, config=CSAQConfig(target_bits=4.0))


def linears(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, CSAQLinear)}


def test_the_bits_are_those_of_the_bytes_and_meet_the_target(made):
    model, info = made
    held = [t for m in linears(model).values() for t in m.buffers()]
    n_weight = sum(m.in_features * m.out_features for m in linears(model).values())
    assert info["actual_bits"] == 8 * sum(t.nbytes for t in held) / n_weight
    assert 3.995 <= info["actual_bits"] <= 4.0
    parameters = sum(p.nbytes for p in model.parameters())
    n_plain = sum(p.numel() for p in model.parameters())
    total = 8 * (parameters + sum(t.nbytes for t in held)) / (n_weight + n_plain)
    assert info["model_bits"] == total


def test_info_tells_what_the_model_holds(made):
    model, info = made
    assert set(linears(model)) == set(info["budget"]) == set(info["causal_map"])
    assert "lm_head" not in info["budget"]
    assert info["cliques_count"] == sum(map(len, info["budget"].values()))
    assert info["cliques_count"] == sum(info["clique_sizes"].values())
    counts = {"int2": 0, "int4": 0, "int8": 0, "fp16": 0}
    for name, linear in linears(model).items():
        bits = linear.qweight.row_bits()
        for clique in info["budget"][name]:
            assert set(bits[list(clique.rows)].tolist()) == {clique.bits}
        assert torch.nonzero(bits >= 8)[:, 0].tolist() == info["causal_map"][name]
        for width, tier in ((2, "int2"), (4, "int4"), (8, "int8"), (16, "fp16")):
            counts[tier] += int((bits == width).sum()) * linear.in_features
    assert {tier: n for tier, n in counts.items() if n} == info["tier_stats"]
    n_row = sum(m.out_features for m in linears(model).values())
    assert sum(map(len, info["causal_map"].values())) >= 0.09 * n_row


def test_each_row_is_as_close_as_its_width_allows(made, original):
    """Relative error: the published package has 1.77 where it says 8 bits."""
    model, _ = made
    limits = {16: 1e-3, 8: 0.01, 4: 0.15, 2: 0.6}
    for name, linear in linears(model).items():
        weight = original.get_submodule(name).weight
        error = (linear.qweight.dequantize() - weight).norm(dim=1) / weight.norm(dim=1)
        for bits, limit in limits.items():
            assert bool((error[linear.qweight.row_bits() == bits] < limit).all()), (name, bits)


def test_guided_rounding_stays_closer_than_rounding_to_the_nearest(made, original, calib):
    model, info = made
    nearest = build_model("llama", **SHAPE)
    apply_csaq(nearest, info["budget"], CSAQConfig())
    ids = torch.cat([window["input_ids"] for window in calib])

    def divergence(other):
        p, q = (m(ids).logits.log_softmax(-1) for m in (original, other))
        return float((p.exp() * (p - q)).sum(-1).mean().detach())

    assert divergence(model) < 0.9 * divergence(nearest)


def test_a_saved_model_generates_as_before(made, tokenizer, tmp_path):
    model, info = made
    path = export_csaq_model(model, tmp_path / "out", info=info, tokenizer=tokenizer)
    loaded = AutoModelForCausalLM.from_pretrained(path)
    assert torch.equal(loaded.generate(IDS, **SETTINGS), model.generate(IDS, **SETTINGS))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for name, linear in linears(loaded).items():
        for tier in linear.tiers:
            assert torch.equal(stored[f"{name}.{tier.name}"], getattr(linear, tier.name))
    manifest = json.loads((tmp_path / "out" / "csaq_manifest.json").read_text())
    assert manifest["actual_bits"] == info["actual_bits"]
    assert [c["bits"] for c in manifest["budget"]["model.layers.0.mlp.up_proj"]] == [
        c.bits for c in info["budget"]["model.layers.0.mlp.up_proj"]
    ]
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    engine = CSAQInferenceEngine(loaded, info["causal_map"], tokenizer)
    ids, _ = engine.generate(IDS, temperature=0, max_new_tokens=12)
    assert torch.equal(ids, loaded.generate(IDS, **SETTINGS)[:, : ids.shape[1]])


def test_the_published_order_of_arguments_is_taken(made, tmp_path):
    model, info = made
    path = export_csaq_model(model, CSAQConfig(), info["budget"], str(tmp_path / "out"), info=info)
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "config.json", "model.safetensors", "csaq_manifest.json",
    }  # fmt: skip
    assert path == str(tmp_path / "out")


def test_nothing_is_left_where_a_folder_cannot_be_written(made, original, tmp_path, monkeypatch):
    model, _ = made
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for where, words in [((tmp_path / "full",), "exists"), ((), "which folder")]:
        with pytest.raises(UsageError, match=words):
            export_csaq_model(model, *where)
    with pytest.raises(UsageError, match="no packed layers"):
        export_csaq_model(original, tmp_path / "out")

    def fail(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(model.config, "save_pretrained", fail)
    with pytest.raises(KeyboardInterrupt):
        export_csaq_model(model, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_the_report_has_the_figures(made, tmp_path):
    _, info = made
    figures = generate_csaq_report(info, save_path=tmp_path / "CSAQ_Report.json")
    assert json.loads((tmp_path / "CSAQ_Report.json").read_text())["rows"] == figures["rows"]
    assert figures["actual_bits"] == info["actual_bits"]
    assert sum(figures["tier_percent"].values()) == pytest.approx(100, abs=0.03)
    page = (tmp_path / "CSAQ_Report.html").read_text()
    assert f"{info['actual_bits']:.4f}" in page
    assert "model.layers.1.mlp.down_proj" in page


def test_a_target_that_the_widths_do_not_allow_is_refused(calib):
    with pytest.raises(UsageError, match="4-bit rows with their scales"):
        quantize(build_model("llama"), calib, CSAQConfig(bit_options=[4, 8, 16], target_bits=4.0))


def test_bfloat16_rows_stay_as_they_are(calib):
    model = build_model("llama", num_hidden_layers=1).bfloat16()
    weight = model.model.layers[0].mlp.up_proj.weight.clone()
    rows = tuple(range(weight.shape[0]))
    budget = {"model.layers.0.mlp.up_proj": (CliqueBits(rows, 1.0, 16),)}
    apply_csaq(model, budget, CSAQConfig())
    packed = model.model.layers[0].mlp.up_proj.qweight
    assert torch.equal(packed.dequantize(), weight.float())


def test_a_layer_that_cannot_be_packed_is_named(calib):
    model = build_model("llama", num_hidden_layers=1)
    name = "model.layers.0.mlp.up_proj"
    budget = {name: (CliqueBits(tuple(range(96)), 1.0, 8),)}
    with torch.no_grad():
        model.get_submodule(name).weight[3, 4] = float("nan")
    with pytest.raises(ModelError, match=rf"{name}.*row 3, column 4"):
        apply_csaq(model, budget, CSAQConfig())
    with pytest.raises(ModelError, match="no linear layer"):
        apply_csaq(model, {"model.norm": budget[name]}, CSAQConfig())


def test_perplexity_is_that_of_every_token_once(original, tokenizer):
    ids = tokenizer("\n\n".join(TEXT[:3]), return_tensors="pt")["input_ids"][:, :100]
    whole = float(original(ids, labels=ids).loss.detach())
    found = compute_perplexity(original, tokenizer, TEXT[:3], 100, stride=100, seq_len=100)
    assert found == pytest.approx(exp(whole), rel=1e-4)
    steps = compute_perplexity(original, tokenizer, TEXT[:3], 100, stride=7, seq_len=33)
    losses = []
    for position in range(1, ids.shape[1]):
        end = 33 if position < 33 else 33 + 7 * -(-(position - 32) // 7)
        window = ids[0, max(0, end - 33) : min(end, ids.shape[1])]
        logits = original(window[None]).logits[0]
        losses.append(-logits.log_softmax(-1)[position - max(0, end - 33) - 1, ids[0, position]])
    assert steps == pytest.approx(exp(float(torch.stack(losses).mean().detach())), rel=1e-4)


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [(["a"], {}, "no token"), (TEXT, {"stride": 0}, "stride"), (TEXT, {"stride": 999}, "stride")],
)
def test_nothing_to_measure_is_refused(original, tokenizer, texts, settings, words):
    with pytest.raises(UsageError, match=words):
        compute_perplexity(original, tokenizer, texts, **({"stride": 8} | settings))
