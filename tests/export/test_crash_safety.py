"""Killed, or out of disk: a final name is absent or whole, stages stay, the same file comes out."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import new_file, write_rows
from csaq_runtime.errors import ResourceError
from tests.export.kill_stages import STAGES
from tests.export.models import save_folder

ROOT = Path(__file__).resolve().parents[2]
N_KILL, N_ROW = 200, 64
ROWS = np.random.default_rng(3).integers(0, 256, (N_ROW, 4096), np.uint8)


def write_slowly(out: Path, delay: float) -> None:
    """Write `ROWS` as conversions do; dies `delay` seconds after it began."""
    threading.Timer(delay, os.kill, [os.getpid(), signal.SIGKILL]).start()
    with new_file(out, ROWS.nbytes, force=True) as file:
        for row in ROWS:
            write_rows(file, [row[None]], row.nbytes)
            file.flush()
    os._exit(0)


def seconds_of_a_write(out: Path) -> float:
    started = time.monotonic()
    with new_file(out, ROWS.nbytes, force=True) as file:
        for row in ROWS:
            write_rows(file, [row[None]], row.nbytes)
            file.flush()
    return time.monotonic() - started


def test_kills_at_200_points_of_a_write_leave_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    chance, found, fork = random.Random(8), Counter[str](), multiprocessing.get_context("fork")
    seconds = sorted(seconds_of_a_write(tmp_path / "x") for _ in range(5))[2]
    for number in range(N_KILL):
        out = tmp_path / f"{number}.gguf"
        old = b"old" if number % 2 else None
        if old is not None:
            out.write_bytes(old)
        process = fork.Process(target=write_slowly, args=(out, chance.uniform(0, 1.2 * seconds)))
        process.start()
        process.join()
        content = out.read_bytes() if out.exists() else None
        assert content in (old, ROWS.tobytes())
        partial = out.with_name(out.name + ".partial")
        began = "whole" if content == ROWS.tobytes() else "partial" if partial.exists() else "none"
        found[began] += 1
    print(f"{N_KILL} kills: {dict(found)}")
    assert found["partial"] > N_KILL // 10


def test_a_kill_in_every_stage_and_a_resume_give_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.export.kill_stages", "1", str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    assert json.loads(done.stdout) == dict.fromkeys(STAGES, 1)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 3 MiB; where nothing may be mounted, the limit is one of file sizes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, n_left: int) -> None:
    """Leave about `n_left` bytes of a disk free."""
    free = shutil.disk_usage(folder).free
    (folder / "ballast").write_bytes(bytes(max(0, free - n_left)))


def test_a_full_disk_is_refused_before_the_work_begins(small_disk: Path) -> None:
    fill(small_disk, 100_000)
    with (
        pytest.raises(ResourceError, match=r"needs 262,144 bytes, the disk has \d+,\d+ left"),
        new_file(small_disk / "out.gguf", ROWS.nbytes, force=False),
    ):
        raise AssertionError("begun")


def write_while_the_disk_fills_up(folder: Path) -> None:
    with new_file(folder / "out.gguf", ROWS.nbytes, force=False) as file:
        fill(folder, 100_000)
        write_rows(file, ROWS, ROWS.nbytes)


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(ResourceError, match="No space left"):
        write_while_the_disk_fills_up(small_disk)
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_stage_without_room_leaves_the_others(small_disk: Path) -> None:
    work = WorkDir(small_disk / "work")
    work.save("first", {}, {"a": torch.zeros(1000)})
    fill(small_disk, 100_000)
    with pytest.raises(ResourceError, match=r"second\.safetensors.*No space left") as caught:
        work.save("second", {}, {"a": torch.zeros(100_000)})
    assert "--work-dir" in caught.value.hint
    assert [path.name for path in work.folder.iterdir()] == ["first.safetensors"]
    assert work.load("first", {}) is not None


FILLED_MEANWHILE = """
import shutil, sys
from csaq_cli.main import main
usage = shutil.disk_usage
shutil.disk_usage = lambda place: usage(place)._replace(free=2**40)  # as it was at the beginning
main(sys.argv[1:])
"""


def test_converting_to_a_full_disk_is_exit_code_4_and_leaves_nothing(
    small_disk: Path, tmp_path: Path
) -> None:
    save_folder(tmp_path / "model", "llama")
    fill(small_disk, 100_000)
    arguments = ["convert", str(tmp_path / "model"), "--type", "F32", "-o", f"{small_disk}/x.gguf"]
    command = [sys.executable, "-c", FILLED_MEANWHILE, *arguments, "-q"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 4, done.stderr
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]
