"""SERQ: folding changes no output, factors help, files and adapters run."""

import numpy as np
import pytest
import torch

from csaq_export.calibration import Calibration
from csaq_export.guidance import Calibrating
from csaq_export.layered_model import open_layered
from csaq_export.lora import adapter_path, joined, of_columns, of_rows
from csaq_export.methods.serq.fold import folds
from csaq_export.methods.serq.peaks import input_peaks
from csaq_export.methods.serq.recipe import SerqRequest, convert_serq
from csaq_export.methods.serq.rounding import round_around_columns
from csaq_export.pipeline import Conversion
from csaq_export.quantize import decode
from csaq_export.torch_model import load_torch_model
from csaq_runtime.engine import Engine
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.models import TEXT, save_folder
from tests.export.test_quantize_feedback import correlated
from tests.parity.oracle import logits as oracle_logits

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
IDS = np.random.default_rng(0).integers(0, 300, (16, 8)).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama", **SHAPE)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


@pytest.fixture(scope="module")
def two_bits(folder):
    """A rows file of rank 64 and its plan."""
    out = folder / "rows.gguf"
    return out, convert(folder, out, rank=64, w_bits=2, a_bits=8)


def convert(folder, out, **changes):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    wanted = SerqRequest(calibrating, work_dir=folder / "work", **changes)
    return convert_serq(Conversion(str(folder), out, "", force=True), wanted, lambda *_: None)


def original(folder):
    with torch.no_grad():
        return load_torch_model(folder).model(torch.tensor(IDS)).logits.flatten(0, 1).numpy()


def ours(path):
    with Engine.open(path, cache_type="f32", n_threads=1) as engine:
        return np.concatenate([engine.logits(ids) for ids in IDS])


@pytest.mark.parametrize("kind", ["llama-biased", "qwen2", "qwen3"])
def test_folding_leaves_every_logit_as_it_was(kind, tmp_path):
    save_folder(tmp_path, kind)
    layered, model = open_layered(tmp_path), load_torch_model(tmp_path)
    windows = Calibration(torch.tensor(IDS), "random", "0", 0)
    peaks = input_peaks(layered, windows, torch.device("cpu"), lambda *_: None)
    config = model.model.config
    head_dim = model.parameter("blk.0.attn_v.weight").shape[0] // config.num_key_value_heads
    before = original(tmp_path)
    for name, fold in folds(peaks, 3, config.num_key_value_heads, head_dim).items():
        if name in model.slots and model.has(name):
            values = model.read(name)
            changed = fold.apply(values if values.ndim == 2 else values[:, None])
            assert not torch.equal(changed.reshape(values.shape), values)
            model.write(name, changed.reshape(values.shape))
    with torch.no_grad():
        after = model.model(torch.tensor(IDS)).logits.flatten(0, 1).numpy()
    assert np.abs(after - before).max() < 1e-4 * np.ptp(before)


@pytest.mark.parametrize("ggml_type", [GGMLType.Q2_K, GGMLType.Q4_K, GGMLType.MXFP4])
def test_a_factor_lowers_the_loss_and_more_than_its_columns_would(ggml_type):
    weight = torch.randn(24, 256, generator=torch.Generator().manual_seed(1))
    curvature, columns = correlated(256), torch.arange(0, 256, 16)
    losses = []
    for chosen in (columns[:1], columns):
        made = round_around_columns(weight, ggml_type, curvature, chosen)
        change = decode(made.packed, ggml_type) - weight
        change[:, chosen] += made.factor
        losses.append(float(((change @ curvature) * change).sum()))
    assert losses[1] < 0.8 * losses[0]


def test_the_file_runs_and_is_closer_with_its_factor(folder, two_bits, tmp_path):
    out, plan = two_bits
    assert plan.bpw == 8 * out.stat().st_size / plan.n_weight
    convert(folder, tmp_path / "less.gguf", rank=1, w_bits=2)
    meant = original(folder)
    more, less = (np.abs(ours(path) - meant).mean() for path in (out, tmp_path / "less.gguf"))
    assert more < 0.9 * less
    with open_gguf(out) as file:
        assert file.tensors["blk.0.ffn_up.lowrank"].shape == (256, 64)
        assert file.text("general.architecture") == "csaq-llama"
        assert file.integer("csaq.serq.a_bits") == 8


def test_stock_llama_cpp_adds_the_adapter_and_gets_our_logits(folder, two_bits, tmp_path):
    stock = tmp_path / "stock.gguf"
    convert(folder, stock, rank=64, w_bits=2, lora=True)
    found = ours(two_bits[0])
    plain = oracle_logits(stock, *IDS)
    adapted = oracle_logits(stock, *IDS, adapter=adapter_path(stock))
    near = np.abs(adapted - found).mean()
    assert near < 5e-3 * np.ptp(found)
    assert near < 0.1 * np.abs(plain - found).mean()


def test_main_matrices_in_mxfp4_run(folder, tmp_path):
    convert(folder, tmp_path / "out.gguf", rank=256, mxfp4=True)
    meant = original(folder)
    assert np.abs(ours(tmp_path / "out.gguf") - meant).mean() < 5e-3 * np.ptp(meant)


def test_factors_are_the_changes_they_stand_for():
    change, places = torch.randn(5, 3), torch.tensor([4, 0, 2])
    columns = of_columns(change, places, 7)
    expected = torch.zeros(5, 7)
    expected[:, places] = change
    assert torch.equal(columns.b @ columns.a, expected)
    rows = of_rows(change.T, places, 7)
    assert torch.equal(rows.b @ rows.a, expected.T)
    both = joined(columns, of_rows(torch.ones(1, 7), torch.tensor([3]), 5))
    expected[3] += 1
    assert torch.equal(both.b @ both.a, expected)
