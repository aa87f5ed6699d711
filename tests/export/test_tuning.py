"""Tuning lowers the divergence on held-out text, moves only what may move, and can decline."""

import pytest
import torch

from csaq_export.calibration import read_calibration
from csaq_export.quantize import encode
from csaq_export.quantize.coded import unpack
from csaq_export.torch_model import load_tokenizer, load_torch_model
from csaq_export.tuning import Packed, Schedule, tune
from csaq_runtime.formats import GGMLType
from tests.export.models import TEXT, save_folder

SCHEDULE = Schedule(12, 4, torch.device("cpu"))


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A model with rotary rows permuted, its matrices in Q4_0 but one, and windows of text."""
    folder = tmp_path_factory.mktemp("model")
    save_folder(folder, "llama")
    (folder / "text.txt").write_text(" ".join(TEXT))
    model = load_torch_model(folder)
    windows = read_calibration(str(folder / "text.txt"), load_tokenizer(folder), 40, 24, 0)
    packed = {
        name: Packed(kind, encode(model.read(name), kind))
        for name in model.slots
        if model.has(name) and model.parameter(name).ndim == 2
        for kind in [GGMLType.F16 if "attn_v" in name else GGMLType.Q4_0]
    }
    return model, packed, *windows.split(8)


def test_held_out_divergence_falls(setting):
    model, packed, calibration, held = setting
    originals = {name: model.read(name) for name in packed}
    tuned = tune(model, packed, calibration, held, SCHEDULE)
    assert tuned.after < 0.97 * tuned.before
    assert all(torch.equal(model.read(name), weight) for name, weight in originals.items())


def test_only_scales_and_norms_move(setting):
    model, packed, calibration, held = setting
    tuned = tune(model, packed, calibration, held, SCHEDULE)
    assert all(name.endswith("_norm.weight") for name in tuned.vectors)
    assert any(not torch.equal(v, model.read(name)) for name, v in tuned.vectors.items())
    for name, part in packed.items():
        if part.type == GGMLType.F16:
            assert torch.equal(tuned.packed[name].data, part.data)
            continue
        old, new = unpack(part.data, part.type), unpack(tuned.packed[name].data, part.type)
        assert torch.equal(old.codes, new.codes)
        ratio = new.params.d / old.params.d
        assert bool(((ratio > 0.9) & (ratio < 1.1)).all())


def test_same_seed_gives_the_same_bytes(setting):
    model, packed, calibration, held = setting
    one, two = (tune(model, packed, calibration, held, SCHEDULE) for _ in range(2))
    assert all(torch.equal(one.packed[n].data, two.packed[n].data) for n in packed)


def test_what_does_not_help_is_dropped(setting, monkeypatch):
    model, packed, calibration, held = setting
    monkeypatch.setattr("csaq_export.tuning.RATE", 0.5)
    tuned = tune(model, packed, calibration, held, SCHEDULE)
    assert tuned.after == tuned.before
    assert tuned.vectors == {}
    assert all(torch.equal(tuned.packed[n].data, packed[n].data) for n in packed)
