"""Ranks of torchrun: their number changes no byte of a file, and none waits for one that failed."""

import os
import socket
import subprocess
import sys

import pytest

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion
from tests.export.models import TEXT, save_folder

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama3-tied", num_hidden_layers=1)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


def convert(folder, out, work):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    request = Request(calibrating, Target(like="Q8_0"), work_dir=work)
    convert_calibrated(Conversion(str(folder), out, "Q4_0"), request)
    return out.read_bytes()


@pytest.fixture(scope="module")
def two_ranks(folder, tmp_path_factory):
    """The file and the work dir of a run of two ranks: curves, measurements and comparison."""
    work = tmp_path_factory.mktemp("two")
    command = ["convert", folder, "--like", "Q8_0", "--calib", folder / "calib.txt", "--nsamples",
               "12", "--seqlen", "24", "--device", "cpu", "--work-dir", work / "work",
               "-o", work / "two.gguf"]  # fmt: skip
    done = subprocess.run(
        [*TORCHRUN, "-m", "csaq_cli", *map(str, command)],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{work / 'two.gguf'}\n"
    return work / "two.gguf", work / "work"


def own_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return {**os.environ, "PYTHONWARNINGS": "ignore", "MASTER_PORT": str(port)}


def test_two_ranks_write_the_bytes_of_one(folder, two_ranks, tmp_path):
    assert convert(folder, tmp_path / "one.gguf", None) == two_ranks[0].read_bytes()


def test_stages_of_two_ranks_serve_one(folder, two_ranks, tmp_path):
    path, work = two_ranks
    made = {stage: stage.stat().st_mtime_ns for stage in work.iterdir()}
    assert convert(folder, tmp_path / "one.gguf", work) == path.read_bytes()
    assert made == {stage: stage.stat().st_mtime_ns for stage in work.iterdir()}
    assert not list(work.glob("*-lane-*"))


ONE_FAILS = """
import sys
from csaq_export.ranks import joined_ranks, rank_and_count, wait_for_ranks
from csaq_runtime.errors import ModelError
try:
    with joined_ranks():
        if rank_and_count()[0] == 1:
            raise ModelError("the second rank's disk broke")
        wait_for_ranks()
except ModelError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_rank_that_fails_says_why_and_ends_all():
    environment = {**own_port(), "MASTER_ADDR": "localhost", "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_FAILS],
            env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert said == ["", "the second rank's disk broke\n"]
    assert [rank.returncode for rank in ranks] == [1, 3]
