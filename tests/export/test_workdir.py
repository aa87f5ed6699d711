"""Stages survive, appear whole, and are refused when they belong to something else."""

import pytest
import torch

from csaq_export.workdir import WorkDir
from csaq_runtime.errors import ModelError, UsageError


@pytest.fixture
def work(tmp_path):
    return WorkDir(tmp_path / "work")


def test_stage_comes_back_as_saved(work):
    tensors = {"a": torch.arange(6).reshape(2, 3), "b/c": torch.tensor(1.5, dtype=torch.float64)}
    work.save("stage", {"seed": "1"}, tensors)
    loaded = work.load("stage", {"seed": "1"})
    assert loaded is not None
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert not list(work.folder.glob("*.partial"))


def test_missing_stage_is_none(work):
    assert work.load("stage", {}) is None


@pytest.mark.parametrize("other", [{"seed": "2"}, {}, {"seed": "1", "more": "x"}])
def test_stage_of_other_inputs_is_refused_by_name(work, other):
    work.save("stage", {"seed": "1"}, {"a": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"stage\.safetensors: made with (seed|more)") as caught:
        work.load("stage", other)
    assert "--work-dir" in caught.value.hint


def test_damaged_stage_is_named(work):
    work.save("stage", {}, {"a": torch.zeros(1000)})
    path = work.path("stage")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"stage\.safetensors: damaged"):
        work.load("stage", {})


def test_dropped_stage_is_gone(work):
    work.save("stage", {}, {"a": torch.zeros(1)})
    work.drop("stage")
    work.drop("stage")
    assert work.load("stage", {}) is None
