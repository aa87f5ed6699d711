"""Estimates follow what the stages do: linear in the text, by stages that the request has."""

import itertools
from dataclasses import replace
from threading import BrokenBarrierError
from types import SimpleNamespace

import pytest
import torch

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request
from csaq_export.estimate import (
    clock,
    estimate_conversion,
    estimate_plain,
    first_touch,
    plain,
    rounding,
    text,
)
from csaq_export.estimate.calibrated import estimate_calibrated
from csaq_export.estimate.clock import MOST_SLOWDOWN, slowdown, steady
from csaq_export.estimate.conversion import job_of, matrices_of
from csaq_export.estimate.first_touch import PIECE, touch_rate, with_first_touch
from csaq_export.estimate.rounding import factor_seconds, rounding_work
from csaq_export.estimate.stage import Stage
from csaq_export.estimate.work import Work
from csaq_export.footprint import PROCESS_BYTES
from csaq_export.guidance import Calibrating
from csaq_export.layered_model import open_layered
from csaq_export.pipeline import Conversion, plan
from csaq_export.quantize.encode import CHUNK
from csaq_export.source import open_model
from csaq_runtime.errors import ResourceError
from csaq_runtime.formats import GGMLType
from tests.export.models import TEXT, save_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _short_trials():
    """None side by side, which take longest; the last test here has one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (rounding, text):
            patch.setattr(module, "slowdown", lambda *_: 1.5)
        patch.setattr(clock, "STEADY_TIMES", 1)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "qwen3-tied")
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


def request(folder, target, effort="normal"):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    return Request(calibrating, target, effort)


def conversion(folder):
    return Conversion(str(folder), folder / "out.gguf", "Q4_0")


@pytest.fixture(scope="module")
def job(folder):
    with open_model(str(folder)) as model:
        return job_of(model, folder, conversion(folder), request(folder, Target(bpw=7.0)))


def stages(folder, job, **changes):
    found = estimate_calibrated(folder, open_layered(folder), replace(job, **changes), CPU)
    return {stage.name: stage for stage in found.stages}


def test_the_job_has_the_windows_of_the_text_and_a_presets_types(folder, job):
    assert (job.n_window, job.n_held, job.n_probe) == (11, 1, 1)
    assert len(job.matrices) == 1 + 7 * 3
    assert {m.n_group for m in job.matrices if m.name == "token_embd.weight"} == {4}
    assert job.out_bytes <= 7.0 * job.n_weight / 8 * 1.01
    much = Calibrating(str(folder / "calib.txt"), 10_000, 24, 0, "cpu")
    with open_model(str(folder)) as model:
        wanted = Request(much, None)
        assert 12 < job_of(model, folder, conversion(folder), wanted).n_window < 9_000


def test_stages_are_those_of_the_request(folder, job):
    names = ["calibrate", "measure types", "measure tensors", "round", "compare", "write"]
    assert list(stages(folder, job)) == names
    preset = stages(folder, job, sized=False, n_other=0, n_step=10)
    assert list(preset) == ["calibrate", "round", "tune", "write"]
    assert "write text" in stages(folder, job, sized=False, n_other=0, own_text=True)


def test_more_text_takes_longer_and_more_disk_but_no_more_memory(folder, job):
    few = {"batch_size": 8, "sized": False, "n_other": 0}
    short, long = (stages(folder, job, n_window=n, **few)["calibrate"] for n in (16, 1600))
    assert long.seconds > 10 * short.seconds
    assert long.disk > 10 * short.disk
    assert long.memory == short.memory


def test_descent_adds_to_rounding():
    fast, best = (rounding_work(GGMLType.Q4_0, (64, 512), n, CPU).clock(1) for n in (0, 40))
    assert best > fast > 0


def test_rounding_grows_with_rows_and_factors_with_columns():
    few, more = (rounding_work(GGMLType.Q8_0, (n, 256), 0, CPU) for n in (1024, 20 * 1024))
    assert more.rounding == pytest.approx(20 * few.rounding)
    narrow, wide = (factor_seconds(n, CPU) for n in (2048, 8192))
    assert 16 * narrow <= wide <= 64 * narrow * 1.01


def test_a_plain_conversion_fills_its_file(folder, tmp_path):
    planned = plan(Conversion(str(folder), tmp_path / "out.gguf", "Q4_0"))
    estimate = estimate_plain(planned)
    assert estimate.disk == planned.n_bytes
    assert estimate.seconds > 0
    assert {m.type for m in matrices_of(planned)} == {GGMLType.Q4_0, GGMLType.Q8_0}


def test_an_estimate_leaves_nothing_behind(folder, tmp_path):
    work = tmp_path / "work"
    wanted = replace(request(folder, None, "fast"), work_dir=work)
    assert estimate_conversion(conversion(folder), wanted).seconds > 0
    assert not work.exists()


def test_workers_wait_for_each_other_as_far_as_both_round():
    assert Work(free=6.0).clock(2) == 3.0
    assert Work(rounding=6.0, waiting=4.0).clock(2) == 5.0
    mixed = Work(free=6.0, rounding=6.0, waiting=4.0).clock(2)
    assert 6.0 < mixed < 8.0
    assert 2 * mixed == pytest.approx(12.0 + 4.0 * (1 - 6.0 / (2 * mixed)))


def test_threads_that_take_turns_are_slower():
    python = slowdown(lambda: sum(range(600_000)), 2, CPU)
    assert 1.0 <= python <= 2 * MOST_SLOWDOWN
    assert slowdown(lambda: None, 1, CPU) == 1.0
    if torch.get_num_threads() > 1:
        assert python > 1.2


@pytest.mark.skipif(torch.get_num_threads() == 1, reason="one core: no trial side by side")
def test_a_trial_that_fails_ends_those_beside_it():
    turns = itertools.count()

    def fails_once():
        if next(turns) == 0:
            raise ResourceError("no room")

    with pytest.raises((ResourceError, BrokenBarrierError)):
        slowdown(fails_once, 2, CPU)


def test_a_stage_pays_for_memory_and_files_beyond_what_was_there_before(monkeypatch):
    asked = []
    monkeypatch.setattr(first_touch, "touch_rate", lambda n: asked.append(n) or 0.5)
    base = PROCESS_BYTES["cpu"]
    shapes = (("a", base + 10, 4), ("b", base + 2, 8), ("c", base + 20, 0), ("d", base, 30))
    before = [Stage(name, 1.0, memory, disk) for name, memory, disk in shapes]
    assert [stage.seconds for stage in with_first_touch(before, CPU)] == [8.0, 1.0, 4.0, 6.0]
    cuda = with_first_touch(before, torch.device("cuda"))
    assert [stage.seconds for stage in cuda] == [3.0, 3.0, 1.0, 12.0]
    assert asked == [30, 30]


def test_new_memory_is_tried_as_far_as_it_will_be_needed():
    assert touch_rate(PIECE - 1) == 0.0
    assert 1e-12 < touch_rate(2 * PIECE) < 1e-6


def test_the_usual_time_counts_not_the_least(monkeypatch):
    monkeypatch.setattr(clock, "STEADY_TIMES", 5)
    seconds = iter([0.03, 0.01, 0.05, 0.02, 0.04])
    assert steady(lambda: None, CPU, lambda work, device: next(seconds)) == 0.03


def test_a_matrix_is_tried_on_as_many_chunks_as_are_encoded_side_by_side(monkeypatch):
    tried = []
    monkeypatch.setattr(plain, "encode", lambda values, kind: tried.append(values.shape))
    for n_row in (1 << 18, 8):
        weight = SimpleNamespace(n_row=n_row, n_col=1024)
        plain._rate(SimpleNamespace(type=GGMLType.Q4_K, weight=weight))
    n_chunk = plain.CHUNKS_EACH * torch.get_num_threads()
    assert set(tried) == {(n_chunk * CHUNK // 1024, 1024), (8, 1024)}
