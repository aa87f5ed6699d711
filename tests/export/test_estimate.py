"""Estimates follow what the stages do: linear in the text, by stages that the request has."""

from dataclasses import replace

import pytest
import torch

from csaq_export.estimate import estimate_calibrated, estimate_plain
from csaq_export.estimate.calibrated import Job
from csaq_export.estimate.encoders import Encoders
from csaq_export.layered_model import open_layered
from csaq_export.pipeline import Conversion, plan
from csaq_runtime.formats import GGMLType
from tests.export.models import save_folder

CPU = torch.device("cpu")
JOB = Job(
    n_window=16, seq_len=32, batch_size=8, n_probe=2, bpw=4.5, out_bytes=60_000,
    sized=True, compared=True, n_sweep=2, n_step=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "qwen3-tied")
    return path


def stages(folder, **changes):
    found = estimate_calibrated(open_layered(folder), replace(JOB, **changes), CPU)
    return {stage.name: stage for stage in found.stages}


def test_stages_are_those_of_the_request(folder):
    names = ["calibrate", "measure types", "measure tensors", "round", "compare", "write"]
    assert list(stages(folder)) == names
    plain = stages(folder, sized=False, compared=False, n_step=10)
    assert list(plain) == ["calibrate", "round", "tune", "write"]


def test_more_text_takes_longer_and_more_disk_but_no_more_memory(folder):
    short, long = (stages(folder, n_window=n)["calibrate"] for n in (16, 1600))
    assert long.seconds > 10 * short.seconds
    assert long.disk > 10 * short.disk
    assert long.memory == short.memory


def test_descent_adds_to_rounding(folder):
    fast, best = (stages(folder, n_sweep=n)["round"].seconds for n in (0, 400))
    assert best > 2 * fast


def test_guided_rounding_takes_longer_than_plain_encoding():
    encoders = Encoders(CPU)
    plain = encoders.plain(GGMLType.Q8_0, 512 * 512)
    assert encoders.guided(GGMLType.Q8_0, 512, 512, 2) > plain > 0


def test_a_plain_conversion_fills_its_file(folder, tmp_path):
    planned = plan(Conversion(str(folder), tmp_path / "out.gguf", "Q4_0"))
    estimate = estimate_plain(planned)
    assert estimate.disk == planned.n_bytes
    assert estimate.seconds > 0
