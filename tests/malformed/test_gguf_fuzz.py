"""Random mutants of sound files open, read in full and run, or end in typed errors; nothing else.

100,000 in all: most of a file of every kind of key, the others of a model that can run.
"""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import GGUFFile, open_gguf
from tests.malformed.hostile import SOUND
from tests.malformed.mutate import mutant

N_SEED, N_READ, N_RUN = 8, 12_000, 4_000
_GETTERS = ["integer", "number", "text", "flag", "texts", "integers", "numbers"]


def read_mutants(path: Path, seed: int, count: int) -> int:
    """Open `count` mutants and read all of those that open; returns how many did."""
    chance, sound = random.Random(seed), SOUND.build()
    n_head, n_opened = sum(map(len, SOUND.sections())), 0
    path.write_bytes(sound)
    for _ in range(count):
        rewrite(path, mutant(sound, n_head, chance))
        with suppress(GGUFError), open_gguf(path) as file:
            n_opened += 1
            _read_all(file, chance)
    return n_opened


def rewrite(path: Path, content: bytearray) -> None:
    # In place: truncating to nothing first makes ext4 flush every one of the files to disk.
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def _read_all(file: GGUFFile, chance: random.Random) -> None:
    for key in file.metadata:
        with suppress(GGUFError):
            getattr(file, chance.choice(_GETTERS))(key)
    for name, info in file.tensors.items():
        assert file.data(name).nbytes == info.n_bytes
        with suppress(GGUFError):
            assert file.float32(name).shape == info.shape


def run_mutants(seed: int, count: int, cache: Path) -> dict[str, int]:
    """Counts of `run_mutants.py`, whose step is compiled with bounds checks into `cache`."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "CSAQ_CACHE_DIR": str(cache)}
    # LLVM's passes over the whole step suffice: Numba's own before them take half of its seconds.
    environment["NUMBA_OPT"] = "0"
    command = [sys.executable, "-m", "tests.malformed.run_mutants", str(seed), str(count)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


@pytest.mark.parametrize("seed", range(N_SEED))
def test_mutants_give_values_or_gguf_errors(seed: int, tmp_path: Path) -> None:
    n_opened = read_mutants(tmp_path / "mutant.gguf", seed, N_READ)
    # Both outcomes must be common, or the mutants prove nothing.
    assert N_READ // 20 < n_opened < N_READ // 2


def test_mutants_that_are_accepted_run(tmp_path: Path) -> None:
    counts = run_mutants(2026, N_RUN, tmp_path)
    print(counts)
    assert sum(counts.values()) == N_RUN
    assert "several lines" not in counts
    assert counts["ran"] > N_RUN // 20
    assert counts["GGUFError"] > N_RUN // 20


BEYOND = """
import ctypes
from tests.malformed.run_mutants import guarded
array = guarded(64, "u1")
ctypes.string_at(array.ctypes.data, 64)
print("within", flush=True)
ctypes.string_at(array.ctypes.data, 65)
"""


def test_reading_past_guarded_memory_is_a_crash() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEYOND], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == b"within\n"
    assert done.returncode == -signal.SIGSEGV
