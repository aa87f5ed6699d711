"""A conversion for which memory will not suffice is refused before it begins, with the sum."""

import os
import resource
import subprocess
import sys

import pytest

from csaq_export.memory import check_calibrating
from csaq_export.pipeline import Conversion, convert
from csaq_export.source import open_model
from csaq_runtime.errors import ResourceError
from csaq_runtime.memory_limits import Limit
from tests.export.models import TEXT, save_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    save_folder(path, "llama")
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


@pytest.fixture
def little(monkeypatch):
    few = Limit(100 * 2**20, "container limit")
    monkeypatch.setattr("csaq_runtime.memory_limits.available_memory", lambda: few)


def test_streaming_is_refused_with_nothing_left_behind(folder, little, tmp_path):
    with pytest.raises(ResourceError, match=r"rows 96 MiB \+ program 256 MiB\), 100 MiB are"):
        convert(Conversion(str(folder), tmp_path / "x.gguf", "Q8_0"))
    assert list(tmp_path.iterdir()) == []


def test_calibrating_counts_copies_and_curvature(folder, little):
    with open_model(str(folder)) as model:
        weights = 4 * sum(weight.n_row * weight.n_col for weight in model.weights)
        assert weights > 2**19
        sums = rf"weights {6 * weights / 2**20:.0f} MiB \+ curvature \d MiB \+ rounding"
        with pytest.raises(ResourceError, match=sums):
            check_calibrating(model, 6)


def test_a_limit_of_addresses_ends_with_code_4_before_any_work(folder, tmp_path):
    # As much as the imports take, and a little: too little for rows of 16 MiB.
    limit = 1000 * 2**20
    arguments = [folder, "-o", tmp_path / "x.gguf", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "csaq_cli", "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 4, done.stderr
    assert "are available (ulimit -v)" in done.stderr
    assert " + " in done.stderr
    assert list(tmp_path.iterdir()) == []
