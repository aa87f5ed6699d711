"""TaCQ keeps the share asked for where the task's loss and the rounding's error meet."""

import numpy as np
import pytest

from csaq_export.guidance import Calibrating
from csaq_export.methods import tacq
from csaq_export.methods.tacq import TacqRequest, convert_tacq
from csaq_export.pipeline import Conversion
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.dense_file import dense, n_kept
from tests.export.models import TEXT, build_model, save_folder

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama", **SHAPE)
    (path / "calib.txt").write_text(" ".join(TEXT))
    rows = "".join(f"Is the dog {i}?,yes,no,red,cat,{'ABCD'[i % 4]}\n" for i in range(60))
    (path / "task.csv").write_text(rows)
    return path


def convert(folder, work, out, **changes):
    calibrating = Calibrating(None, 12, 24, 0, "cpu")
    wanted = TacqRequest(calibrating, folder / "task.csv", work_dir=work, **changes)
    return convert_tacq(Conversion(str(folder), out, "", force=True), wanted, lambda *_: None)


def linear_weights():
    layers = build_model("llama", **SHAPE).model.layers
    return sum(p.numel() for p in layers.parameters() if p.ndim == 2)


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    """A file of 2 bits and 2 %, its plan and the work dir it left."""
    path = tmp_path_factory.mktemp("made")
    plan = convert(folder, path / "work", path / "out.gguf", outlier_ratio=0.02, base_bits=2)
    return path / "out.gguf", plan, path / "work"


def test_file_has_base_and_circuit_of_the_size_asked_for(made):
    out, plan, _ = made
    assert n_kept(out, "outlier") == int(0.02 * linear_weights())
    with open_gguf(out) as file:
        assert file.tensors["blk.0.ffn_up.weight"].type is GGMLType.IQ2_XXS
        assert file.text("csaq.method") == "tacq"
    assert plan.bpw == 8 * out.stat().st_size / plan.n_weight


def test_another_ratio_needs_neither_gradients_nor_a_first_rounding(
    folder, made, tmp_path, monkeypatch
):
    out, _, work = made
    monkeypatch.setattr(tacq, "_score", lambda *_: pytest.fail("scored again"))
    convert(folder, work, tmp_path / "b.gguf", outlier_ratio=0.01, base_bits=2)
    assert n_kept(tmp_path / "b.gguf", "outlier") == n_kept(out, "outlier") // 2


def test_kept_weights_are_close_to_the_original_and_the_rest_is_not(made):
    original = build_model("llama", **SHAPE).model.layers[0].mlp.up_proj.weight.detach().numpy()
    found = dense(made[0])["blk.0.ffn_up.weight"]
    error = np.abs(found - original)
    with open_gguf(made[0]) as file:
        kept = found != file.float32("blk.0.ffn_up.weight")
    assert 0 < kept.mean() < 0.1
    assert error[kept].mean() < 0.3 * error[~kept].mean()
