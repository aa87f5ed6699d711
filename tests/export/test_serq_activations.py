"""Activations of few bits in torch: what they round to, and that nothing else changes."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from csaq_export.calibrated import silent
from csaq_export.guidance import Calibrating
from csaq_export.methods.serq.activations import (
    Activations,
    replaced,
    rounded_inputs,
    serq_tensors,
)
from csaq_export.methods.serq.rounding import fold_model
from csaq_export.methods.session import open_session
from csaq_export.pipeline import Conversion
from csaq_export.torch_model import load_torch_model
from csaq_runtime.formats import GGMLType
from tests.export.models import TEXT, save_folder

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 3, 64)
IDS = torch.arange(40).view(2, 20)


@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 0), (4, 32)])
def test_integers_have_their_levels_and_half_a_step_of_error(bits, group):
    found = Activations(bits, group).rounded(X)
    groups, kept = (each.unflatten(-1, (-1, group or 64)) for each in (X, found))
    largest = 2 ** (bits - 1) - 1
    step = groups.abs().amax(-1, keepdim=True) / largest
    levels = kept / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert float(levels.abs().max()) == pytest.approx(largest)
    assert bool(((kept - groups).abs() <= 0.501 * step).all())


def test_mxfp4_is_what_gguf_py_makes_of_the_same_values():
    kind = GGMLQuantizationType.MXFP4
    expected = dequantize(quantize(X.numpy(), kind), kind)
    np.testing.assert_array_equal(Activations(4, mxfp4=True).rounded(X).numpy(), expected)


def test_nothing_becomes_nothing():
    for kind in (Activations(4), Activations(4, mxfp4=True)):
        assert torch.equal(kind.rounded(torch.zeros(2, 32)), torch.zeros(2, 32))


def test_all_columns_in_the_factor_lose_nothing_and_fewer_bits_lose_more(tmp_path):
    save_folder(tmp_path, "llama-biased")
    (tmp_path / "calib.txt").write_text(" ".join(TEXT))
    model = load_torch_model(tmp_path)
    before = logits(model)
    conversion = Conversion(str(tmp_path), tmp_path / "none.gguf", "")
    wanted = Calibrating(str(tmp_path / "calib.txt"), 8, 16, 0, "cpu")
    losses = []
    with open_session(conversion, wanted, None, silent) as session:
        tensors = serq_tensors(session, fold_model(session), GGMLType.Q4_0, 96)
        with replaced(model, tensors):
            for kind in (None, Activations(8), Activations(4)):
                with rounded_inputs(model.model, kind):
                    losses.append(float((logits(model) - before).abs().mean()))
    assert losses[0] < 1e-4 < 10 * losses[1] < losses[2]
    assert torch.equal(logits(model), before)


def logits(model):
    with torch.no_grad():
        return model.model(IDS).logits
