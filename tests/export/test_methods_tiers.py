"""The article's tiers: shares are kept, sizes are met or refused, kept weights come back."""

import pytest
import torch

from csaq_export.guidance import Calibrating
from csaq_export.methods.mixed import round_kept
from csaq_export.methods.ranking import count_above, lowest_threshold, threshold_for
from csaq_export.methods.tiers import Tiers, TiersRequest, convert_tiers, read_tiers
from csaq_export.pipeline import Conversion
from csaq_export.quantize import decode
from csaq_export.quantize.exempt import Exempt
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.dense_file import dense, n_kept
from tests.export.models import TEXT, build_model, save_folder

SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama", **SHAPE)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def convert(folder, work, out, tiers, bpw=None):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    wanted = TiersRequest(calibrating, tiers, bpw, work)
    return convert_tiers(Conversion(str(folder), out, "", force=True), wanted, lambda *_: None)


def linear_weights():
    with_layers = build_model("llama", **SHAPE).model.layers
    return sum(p.numel() for p in with_layers.parameters() if p.ndim == 2)


@pytest.fixture(scope="module")
def made(folder, work):
    """The article's shares: a file and its plan."""
    out = folder / "out.gguf"
    return out, convert(folder, work, out, Tiers(0.05, 0.20, 4))


def test_shares_of_weights_are_those_asked_for(made):
    out, plan = made
    total = linear_weights()
    assert n_kept(out, "outlier") == pytest.approx(0.05 * total, abs=2)
    assert n_kept(out, "outlier8") == pytest.approx(0.20 * total, abs=4)
    assert plan.bpw == 8 * out.stat().st_size / plan.n_weight
    with open_gguf(out) as file:
        assert file.text("general.architecture") == "csaq-llama"
        assert file.integer("csaq-llama.block_count") == 1
        assert file.number("csaq.actual_bpw") == pytest.approx(plan.bpw)


def test_upper_tiers_bring_the_weights_closer_to_the_original(folder, work, made, tmp_path):
    original = build_model("llama", **SHAPE).model.layers[0].mlp.up_proj.weight.detach().numpy()
    none, whole = tmp_path / "none.gguf", tmp_path / "whole.gguf"
    convert(folder, work, none, Tiers(0.0, 0.0, 4))
    convert(folder, work, whole, Tiers(0.5, 0.5, 4))
    errors = []
    for path in (none, made[0], whole):
        found = dense(path)["blk.0.ffn_up.weight"]
        errors.append(abs(found - original).mean() / abs(original).mean())
    assert errors[1] < 0.85 * errors[0]
    assert errors[2] < 0.01


def test_the_same_inputs_give_the_same_bytes(folder, made, tmp_path):
    convert(folder, tmp_path / "work", tmp_path / "out.gguf", Tiers(0.05, 0.20, 4))
    assert (tmp_path / "out.gguf").read_bytes() == made[0].read_bytes()


def test_a_size_is_met_exactly(folder, work, tmp_path):
    out, bpw = tmp_path / "out.gguf", 7.0
    plan = convert(folder, work, out, Tiers(0.05, 0.20, 4), bpw)
    assert bpw - 0.005 <= 8 * out.stat().st_size / plan.n_weight <= bpw
    assert n_kept(out, "outlier8") > n_kept(out, "outlier") > 0


def test_a_size_below_the_base_is_refused_with_the_arithmetic(folder, work, tmp_path):
    with pytest.raises(
        UsageError, match=r"--bpw 4\.0: .* at Q4_K .* 16 bits adds 32, .* 8 bits 20.5"
    ):
        convert(folder, work, tmp_path / "out.gguf", Tiers(), 4.0)
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("given", ["", "16:0.5", "16:0.9,8:0.2,4:rest", "16:0.1,8:0.2,5:rest"])
def test_shares_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match="--tiers"):
        read_tiers(given)


def test_shares_are_read():
    assert read_tiers("16:0.05,8:0.20,4:rest") == Tiers(0.05, 0.2, 4)
    assert read_tiers(Tiers(0.01, 0.1, 2).text()) == Tiers(0.01, 0.1, 2)


def test_a_threshold_keeps_as_many_as_asked_unless_they_tie():
    values = torch.rand(40, 50, generator=torch.Generator().manual_seed(0))
    scores = {"a": lambda: values, "b": lambda: values[:10] * 2}
    kept = count_above(scores, threshold_for(scores, 321))
    assert sum(kept.values()) == 321
    assert sum(count_above(scores, threshold_for(scores, 0)).values()) == 0
    flat = {"a": lambda: torch.ones(4, 4)}
    assert sum(count_above(flat, threshold_for(flat, 3)).values()) == 0
    assert lowest_threshold(lambda t: True) < 1e-40


@pytest.mark.parametrize("kind", ["Q4_K", "Q2_K", "IQ2_XXS", "IQ3_XXS", "Q4_0"])
def test_kept_weights_lose_nothing_and_help_the_others(kind):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(16, 512, generator=generator)
    exempt = torch.rand(16, 512, generator=generator) < 0.05
    weight[exempt] *= 8
    found = {}
    for name, mask in (("none", torch.zeros_like(exempt)), ("kept", exempt)):
        sensitivity = Sensitivity((Term(torch.eye(512), torch.ones(16)),))
        packed, left = round_kept(
            weight, GGMLType[kind], sensitivity, Exempt(mask, torch.zeros_like(mask))
        )
        found[name] = (decode(packed, GGMLType[kind]) - weight)[~exempt].square().mean()
        assert torch.equal(left[mask], weight[mask])
    assert found["kept"] < 0.8 * found["none"]
