"""Nothing on the way of weights and activations is made on another device than theirs.

Inside `torch.device("meta")` a tensor made without a device has no values, and to mix it
with one that has is an error: what a CUDA device would trip over, without one.
"""

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu_stage import alike
from csaq_export import layered_model
from csaq_export.budget.curve import LADDER, SMALL_BLOCK_LADDER, measure_curve
from csaq_export.budget.walk import divergences
from csaq_export.calibration import Calibration
from csaq_export.device import compute_dtype, find_device
from csaq_export.layered_model import open_layered
from csaq_export.quantize import decode, encode
from csaq_export.quantize.coded import unpack
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term
from csaq_export.statistics import Collection, collect
from csaq_export.statistics.linear import lookup_statistics, observe
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from tests.export.models import save_folder

CPU = torch.device("cpu")
N_ROW, N_COL = 8, 512


@pytest.fixture(scope="module")
def matrix():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(N_ROW, N_COL, generator=generator)
    inputs = torch.randn(2 * N_COL, N_COL, generator=generator)
    return weight, inputs.T @ inputs


@pytest.mark.parametrize("kind", [*LADDER, *SMALL_BLOCK_LADDER], ids=lambda kind: kind.name)
def test_rounding_stays_on_the_device_of_the_weights(matrix, kind):
    weight, curvature = matrix
    term = Term(curvature, torch.ones(N_ROW))
    expected = encode_guided(weight, kind, Sensitivity((term, term)), 1)
    with torch.device("meta"):
        packed = encode_guided(weight, kind, Sensitivity((term, term)), 1)
        assert decode(packed, kind).device == weight.device
        assert encode(weight, kind).device == weight.device
    assert torch.equal(packed, expected)


def test_curves_and_statistics_stay_on_the_device_of_their_inputs(matrix):
    weight, curvature = matrix
    sensitivity = Sensitivity((Term(curvature, torch.ones(N_ROW)),))
    x, z, delta = torch.randn(16, N_COL), torch.randn(16, N_ROW), torch.randn(16, N_ROW)
    groups, ids = torch.zeros(N_ROW, dtype=torch.long), torch.arange(16) % 5
    with torch.device("meta"):
        measure_curve("x", weight, sensitivity, LADDER[-3:])
        seen = observe(x, z, delta, weight, groups, 0, 0.1)
        looked_up = lookup_statistics(ids, delta, 7)
    for statistics in (seen, looked_up):
        assert {tensor.device.type for tensor in statistics.tensors().values()} == {"cpu"}


def test_equal_codes_are_counted_one_by_one_and_by_rows(matrix):
    here = unpack(encode(matrix[0], GGMLType.Q8_0), GGMLType.Q8_0)
    codes = here.codes.clone()
    codes[1, 3] ^= 1
    codes[1, 9] ^= 1
    assert alike(here, here) == {"codes": 1.0, "rows": 1.0}
    assert alike(here, replace(here, codes=codes)) == {"codes": 1 - 2 / 4096, "rows": 1 - 1 / 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama3-tied", torch.bfloat16, num_hidden_layers=2)
    return path


def collected(folder, work):
    """A layered model and the statistics of 4 windows, whatever device new tensors are made on."""
    model = open_layered(folder)
    tokens = torch.randint(0, 300, (4, 24), generator=torch.Generator().manual_seed(3))
    decoder = model.decoder(24, CPU)
    with torch.device("meta"):
        settings = Collection(2, CPU, 0.1, {})
        found = collect(decoder, Calibration(tokens, "", "", 0), WorkDir(work), {}, settings)
    changes = [{"blk.1.ffn_up.weight": lambda: model.read("blk.1.ffn_up.weight") * 1.1}]
    (divergence,) = divergences(model, tokens, changes, CPU)
    return found, divergence


def test_models_run_on_the_device_they_are_given(folder, tmp_path):
    found, divergence = collected(folder, tmp_path)
    curvature = found.of_one("layer-0", "mlp.up_proj").curvature
    assert curvature.device == CPU
    assert divergence > 0


def test_a_model_in_bfloat16_has_the_statistics_of_one_in_float32(folder, tmp_path, monkeypatch):
    whole, divergence = collected(folder, tmp_path / "float32")
    monkeypatch.setattr(layered_model, "compute_dtype", lambda device: torch.bfloat16)
    half, rough = collected(folder, tmp_path / "bfloat16")
    assert rough == pytest.approx(divergence, rel=0.2)
    for part, module in (("layer-0", "mlp.up_proj"), ("layer-1", "self_attn.q_proj"), ("head", "")):
        one, other = (each.of_one(part, module).curvature for each in (whole, half))
        assert other.dtype == torch.float32
        assert 0 < float((one - other).norm() / one.norm()) < 0.1


def test_statistics_of_bfloat16_are_summed_in_float32(matrix):
    weight = matrix[0].bfloat16()
    x, delta = torch.randn(16, N_COL).bfloat16(), torch.randn(16, N_ROW).bfloat16()
    groups = torch.zeros(N_ROW, dtype=torch.long)
    half = observe(x, delta, delta, weight, groups, 0, 0.1)
    full = observe(x.float(), delta.float(), delta.float(), weight.float(), groups, 0, 0.1)
    for name, tensor in half.tensors().items():
        assert torch.equal(tensor, full.tensors()[name]), name


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device"):
        find_device("cuda")
    assert find_device("auto") == torch.device("cpu")


def test_each_rank_takes_its_own_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert find_device("auto") == torch.device("cuda", 3)
    assert compute_dtype(torch.device("cuda", 3)) == torch.bfloat16
