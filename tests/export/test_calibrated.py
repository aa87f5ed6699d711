"""Calibrated conversions: sizes are kept, files load, work is reused, guidance pays off."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from csaq_export import costs, guidance
from csaq_export.budget.allocate import allocate
from csaq_export.budget.probe import make_probe
from csaq_export.budget.target import Target
from csaq_export.calibrated import (
    TUNING_STEPS,
    Request,
    convert_calibrated,
    plan_calibrated,
    silent,
)
from csaq_export.calibration import read_calibration
from csaq_export.estimate import estimate_conversion
from csaq_export.footprint import shapes_of, tuning_bytes, worker_bytes
from csaq_export.guidance import Calibrating, guide
from csaq_export.layered_model import open_layered
from csaq_export.overrides import read_override
from csaq_export.pipeline import Conversion, convert
from csaq_export.room import rounding_room
from csaq_export.torch_model import load_tokenizer, load_torch_model
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import ResourceError, UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.models import TEXT, save_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama3-tied", num_hidden_layers=1)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


@pytest.fixture(scope="module")
def work(folder, tmp_path_factory):
    """A work dir that has been through a calibration."""
    path = tmp_path_factory.mktemp("work")
    wanted = request(folder, path, Target(bpw=8.0), effort="fast")
    convert_calibrated(conversion(folder, path / "first.gguf"), wanted)
    return path


def request(folder, work, target, **changes):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    return Request(calibrating, target, work_dir=work, **changes)


def conversion(folder, out, kind="Q4_0", overrides=()):
    fixed = tuple(read_override(text) for text in overrides)
    return Conversion(str(folder), out, kind, force=True, overrides=fixed)


@pytest.mark.parametrize("bpw", [7.5, 9.0])
def test_file_fills_its_budget_and_not_a_byte_more(folder, work, tmp_path, bpw):
    out = tmp_path / "out.gguf"
    plan = convert_calibrated(conversion(folder, out), request(folder, work, Target(bpw=bpw)))
    assert out.stat().st_size == plan.n_bytes <= bpw * plan.n_weight / 8
    assert plan.bpw > bpw - 0.2
    with open_gguf(out) as file:
        types = {name: tensor.type.name for name, tensor in file.tensors.items()}
        stored = json.loads(file.text("csaq.plan"))
    assert stored == {name: types[name] for name in stored}
    assert len(set(stored.values())) > 1


def test_like_is_never_larger_than_the_preset(folder, work, tmp_path):
    plan = plan_calibrated(
        conversion(folder, tmp_path / "x.gguf"), request(folder, work, Target(like="Q5_0"))
    )
    preset = convert(conversion(folder, tmp_path / "preset.gguf", "Q5_0"))
    assert plan.n_bytes <= preset.n_bytes
    assert not (tmp_path / "x.gguf").exists()


def divergence(folder, path):
    """KL from the original of the model with a file's weights, on windows drawn differently."""
    model = load_torch_model(folder)
    text = read_calibration(str(folder / "calib.txt"), load_tokenizer(folder), 16, 20, 5)
    probe = make_probe(model.model, text.tokens, 4)
    with open_gguf(path) as file:
        for name in file.tensors:
            if name in model.slots:
                model.write(name, torch.from_numpy(file.float32(name).copy()))
    return probe.divergence()


def test_guidance_brings_the_same_types_closer(folder, work, tmp_path):
    convert(conversion(folder, tmp_path / "plain.gguf"))
    convert_calibrated(conversion(folder, tmp_path / "guided.gguf"), request(folder, work, None))
    plain, guided = (divergence(folder, tmp_path / f"{n}.gguf") for n in ("plain", "guided"))
    assert guided < 0.85 * plain


def test_best_effort_tunes_norms_too(folder, work, tmp_path, monkeypatch):
    monkeypatch.setitem(TUNING_STEPS, "best", 20)
    out = tmp_path / "best.gguf"
    convert_calibrated(conversion(folder, out), request(folder, work, None, effort="best"))
    convert_calibrated(conversion(folder, tmp_path / "normal.gguf"), request(folder, work, None))
    with open_gguf(out) as best, open_gguf(tmp_path / "normal.gguf") as normal:
        assert not (
            best.float32("output_norm.weight") == normal.float32("output_norm.weight")
        ).all()
    assert divergence(folder, out) < divergence(folder, tmp_path / "normal.gguf")


def test_another_budget_recollects_nothing(folder, work, tmp_path, monkeypatch):
    plan_calibrated(conversion(folder, tmp_path / "x"), request(folder, work, Target(bpw=7.0)))

    def refuse(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(costs, "measure_curve", refuse)
    monkeypatch.setattr(sys.modules["csaq_export.statistics.collect"], "observe", refuse)
    plan_calibrated(conversion(folder, tmp_path / "x"), request(folder, work, Target(bpw=8.0)))


def test_types_are_not_known_before_a_calibration(folder, tmp_path):
    wanted = request(folder, tmp_path / "new", Target(bpw=7.0))
    assert plan_calibrated(conversion(folder, tmp_path / "x"), wanted) is None
    assert not (tmp_path / "new").exists()


def test_work_of_another_calibration_is_refused(folder, work, tmp_path):
    plan_calibrated(conversion(folder, tmp_path / "x"), request(folder, work, Target(bpw=7.0)))
    other = Calibrating(str(folder / "calib.txt"), 12, 24, 1, "cpu")
    with pytest.raises(UsageError, match="made with calibration"):
        plan_calibrated(
            conversion(folder, tmp_path / "x"), Request(other, Target(bpw=7.0), work_dir=work)
        )


def test_floor_and_overrides_bind(folder, work, tmp_path):
    wanted = request(folder, work, Target(bpw=10.0), floor=GGMLType.Q5_0)
    fixed = ("attn_v=q8_0", r"ffn_(up|down)=F16", "ffn_up=Q5_0")
    plan = plan_calibrated(conversion(folder, tmp_path / "x", overrides=fixed), wanted)
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    assert types["blk.0.attn_v.weight"] == GGMLType.Q8_0
    assert types["blk.0.ffn_up.weight"] == types["blk.0.ffn_down.weight"] == GGMLType.F16
    assert not {GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.IQ4_NL} & set(types.values())


@pytest.mark.parametrize(
    ("target", "overrides", "message"),
    [
        (Target(bpw=2.0), (), "too few: the smallest file is"),
        (Target(bpw=7.0), ("blk.9=Q8_0",), "no such matrix"),
        (Target(bpw=7.0), ("attn_v=Q2_K",), "cannot be Q2_K"),
    ],
)
def test_impossible_requests_are_explained(folder, work, tmp_path, target, overrides, message):
    with pytest.raises(UsageError, match=message):
        plan_calibrated(
            conversion(folder, tmp_path / "x", overrides=overrides), request(folder, work, target)
        )


def test_windows_longer_than_the_context_are_refused(folder, work, tmp_path):
    long = Calibrating(str(folder / "calib.txt"), 12, 4096, 0, "cpu")
    with pytest.raises(UsageError, match="context has 128 tokens"):
        convert_calibrated(conversion(folder, tmp_path / "x"), Request(long, Target(bpw=7.0)))


def test_gguf_source_cannot_be_calibrated(folder, work, tmp_path):
    out = tmp_path / "f16.gguf"
    convert(conversion(folder, out, "F16"))
    with pytest.raises(UsageError, match="needs a Hugging Face folder"):
        plan_calibrated(
            Conversion(str(out), tmp_path / "x", "Q4_0"), request(folder, work, Target(bpw=7.0))
        )


def test_a_preset_that_is_closer_replaces_ours_and_says_so(folder, work, tmp_path, monkeypatch):
    def wasteful(model, curves, limit, metadata):
        return allocate(model, curves, int(0.75 * limit), metadata)

    monkeypatch.setattr("csaq_export.budget.swaps.allocate", wasteful)
    out = tmp_path / "out.gguf"
    wanted = request(folder, work, Target(like="Q8_0"))
    plan = convert_calibrated(conversion(folder, out), wanted)
    assert plan.type == "Q8_0"
    assert "closer on held-out text" in plan.notes[-1]
    assert out.stat().st_size == plan.n_bytes


def test_a_size_without_text_is_kept_and_closer_than_the_preset(folder, tmp_path):
    preset = convert(conversion(folder, tmp_path / "preset.gguf", "Q5_0"))
    calibrating = Calibrating(None, 12, 24, 0, "cpu")
    out = tmp_path / "out.gguf"
    wanted = Request(calibrating, Target(size=preset.n_bytes), work_dir=tmp_path / "work")
    plan = convert_calibrated(conversion(folder, out), wanted)
    assert out.stat().st_size <= preset.n_bytes
    assert "text that the model wrote" in plan.notes[-1]
    with open_gguf(out) as file:
        assert file.text("csaq.calibration.dataset") == "written by the model"
    assert divergence(folder, out) < divergence(folder, tmp_path / "preset.gguf")


def test_interrupted_at_every_stage_it_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(TUNING_STEPS, "best", 3)
    calibrating = Calibrating(None, 12, 24, 0, "cpu")
    seen = []

    def convert_in(name, report):
        wanted = Request(calibrating, Target(bpw=7.5), "best", work_dir=tmp_path / name)
        convert_calibrated(conversion(folder, tmp_path / f"{name}.gguf"), wanted, report)

    def interrupt_once_per_stage(stage, done, total):
        if stage not in seen and (done or total == 1 or stage == "measuring tensors"):
            seen.append(stage)
            raise KeyboardInterrupt

    convert_in("whole", lambda *step: None)
    for _ in range(20):
        try:
            convert_in("killed", interrupt_once_per_stage)
        except KeyboardInterrupt:
            continue
        break
    assert seen[0] == "writing text"
    assert {"backward", "measuring types", "measuring tensors", "rounding", "tuning"} <= {*seen}
    assert (tmp_path / "killed.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_work_of_other_weights_is_refused(folder, work, tmp_path):
    plan_calibrated(conversion(folder, tmp_path / "x"), request(folder, work, Target(bpw=7.0)))
    other = tmp_path / "other"
    save_folder(other, "llama3-tied", seed=1, num_hidden_layers=1)
    with pytest.raises(UsageError, match="made with model"):
        plan_calibrated(conversion(other, tmp_path / "x"), request(folder, work, Target(bpw=7.0)))


def test_cliques_are_stored_when_asked_for_and_counted(folder, work, tmp_path):
    out = tmp_path / "out.gguf"
    wanted = request(folder, work, Target(bpw=9.0), effort="fast", cliques=8.0)
    plan = convert_calibrated(conversion(folder, out), wanted)
    assert out.stat().st_size == plan.n_bytes <= 9.0 * plan.n_weight / 8
    with open_gguf(out) as file:
        labels = file.metadata["csaq.clique.blk.0.ffn_up.weight"]
        assert len(labels) == file.tensors["blk.0.ffn_up.weight"].n_row
        assert min(labels) >= -1
        assert max(labels) >= 0
    plain = plan_calibrated(
        conversion(folder, out), request(folder, work, Target(bpw=9.0), effort="fast")
    )
    assert not any(key.startswith("csaq.clique") for key in plain.metadata)


@pytest.mark.parametrize("kept", [0, 100_000])
def test_weights_that_come_and_go_give_the_bytes_of_those_that_stay(
    folder, work, tmp_path, monkeypatch, kept
):
    wanted = request(folder, work, Target(bpw=9.0))
    convert_calibrated(conversion(folder, tmp_path / "one.gguf"), wanted)
    monkeypatch.setattr(guidance, "keep_bytes", lambda *arguments: kept)
    wanted = request(folder, None, Target(bpw=9.0))
    convert_calibrated(conversion(folder, tmp_path / "two.gguf"), wanted)
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_too_little_memory_is_refused_with_the_arithmetic(folder, tmp_path):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu", max_memory=100 << 20)
    wanted = Request(calibrating, Target(bpw=9.0))
    with pytest.raises(ResourceError, match=r"--max-memory 100 MiB: calibration needs \d+ MiB"):
        convert_calibrated(conversion(folder, tmp_path / "out.gguf"), wanted)


@pytest.mark.parametrize("begin", [convert_calibrated, estimate_conversion])
def test_tuning_without_room_is_refused_before_any_work(folder, tmp_path, begin):
    limit = tuning_bytes(shapes_of(open_layered(folder).slots.values()), 2048, CPU) - 1
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu", max_memory=limit)
    wanted = Request(calibrating, None, "best", work_dir=tmp_path / "work")
    with pytest.raises(ResourceError, match="--effort best needs"):
        begin(conversion(folder, tmp_path / "out.gguf"), wanted)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "work"])
    assert not any((tmp_path / "work").glob("*"))


def test_rounding_takes_the_room_of_weights_that_stayed(folder, work):
    found = guide(folder, request(folder, work, None).calibrating, WorkDir(work), silent)
    assert found.model.kept == {}
    layer = found.model.model.get_decoder().layers[0]
    with found.model.placed(layer, CPU):
        pass
    assert found.model.kept
    assert rounding_room(found) == torch.get_num_threads()
    assert found.model.kept
    assert rounding_room(replace(found, limit=worker_bytes(found.shapes, 1, CPU))) == 1
    assert found.model.kept == {}
