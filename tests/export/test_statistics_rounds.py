"""Rounds add up to one collection, end when rankings are stable, and survive a kill."""

import pytest
import torch

from csaq_export.calibration import Calibration
from csaq_export.statistics import (
    EMBEDDING,
    HEAD,
    Collection,
    collect,
    collect_until_stable,
    layer_part,
    rounds,
    windows_of,
)
from csaq_export.statistics.decoder import take_apart
from csaq_export.statistics.rounds import rank_correlation
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import UsageError
from tests.export.models import build_model

SEQ_LEN, BATCH = 8, 2
SETTINGS = Collection(BATCH, torch.device("cpu"), 0.0, {})


@pytest.fixture(scope="module")
def model():
    return take_apart(build_model("llama", num_hidden_layers=1).requires_grad_(False), SEQ_LEN)


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    monkeypatch.setattr(rounds, "FIRST_WINDOWS", 4)
    monkeypatch.setattr(rounds, "NEXT_WINDOWS", 2)


def calibration():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 300, (10, SEQ_LEN), generator=generator)
    return Calibration(tokens, "random", "digest", 7)


def run(model, folder, stable):
    work = WorkDir(folder)
    return collect_until_stable(model, calibration(), work, {"model": "x"}, SETTINGS, stable)


def test_rank_correlation_is_spearman_s():
    values = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0])
    assert rank_correlation(values, values.exp()) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(values, torch.tensor([1.0, 3.0, 4.0, 1.5, 9.0])) == pytest.approx(0.6)


def test_unreachable_agreement_takes_every_window(model, tmp_path):
    """Inputs are the same as in one go; only draws of labels differ between rounds."""
    found = run(model, tmp_path / "rounds", 1.0)
    whole = collect(model, calibration(), WorkDir(tmp_path / "whole"), {"model": "x"}, SETTINGS)
    assert windows_of(found, SEQ_LEN) == 10
    for name, linear in whole.of(layer_part(0)).items():
        mine = found.of(layer_part(0))[name]
        torch.testing.assert_close(mine.input_square, linear.input_square, rtol=1e-4, atol=1e-4)
        assert mine.n_batch == linear.n_batch
        ratio = mine.row_curvature.sum() / linear.row_curvature.sum()
        assert 0.5 < float(ratio) < 2


def test_stops_at_the_first_stable_ranking(model, tmp_path):
    found = run(model, tmp_path, 0.05)
    assert windows_of(found, SEQ_LEN) == 6
    assert not list(tmp_path.glob("round-*"))


def test_a_killed_run_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch):
    run(model, tmp_path / "whole", 0.05)
    saves, n_saved = WorkDir.save, 0

    def dies_later(self, stage, fingerprint, tensors):
        nonlocal n_saved
        n_saved += 1
        if n_saved % 9 == 0:
            raise KeyboardInterrupt
        saves(self, stage, fingerprint, tensors)

    monkeypatch.setattr(WorkDir, "save", dies_later)
    for _ in range(20):
        try:
            run(model, tmp_path / "killed", 0.05)
        except KeyboardInterrupt:
            continue
        break
    assert n_saved > 20
    for part in (EMBEDDING, layer_part(0), HEAD):
        whole, killed = (
            tmp_path / f / f"statistics-{part}.safetensors" for f in ("whole", "killed")
        )
        assert whole.read_bytes() == killed.read_bytes()


def test_statistics_of_another_threshold_are_refused(model, tmp_path):
    run(model, tmp_path, 0.05)
    with pytest.raises(UsageError, match="made with stable"):
        run(model, tmp_path, 0.5)
