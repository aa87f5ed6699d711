"""Random mutants of a sound file open and read in full, or end in GGUFError; nothing else."""

import random
from contextlib import suppress
from pathlib import Path

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import GGUFFile, open_gguf
from tests.malformed.hostile import SOUND, u32, u64

N_MUTANT = 20_000
_EDGES = [0, 1, 2, 31, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def _flip(content: bytearray, chance: random.Random) -> None:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, chance: random.Random) -> None:
    value = chance.choice(_EDGES)
    patch = u64(value) if chance.random() < 0.6 else u32(value & 0xFFFFFFFF)
    at = chance.randrange(len(content))
    content[at : at + len(patch)] = patch


def _truncate(content: bytearray, chance: random.Random) -> None:
    del content[max(1, chance.randrange(len(content))) :]


def _remove(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    del content[at : min(at + chance.randrange(1, 40), len(content) - 1)]


def _repeat(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    content[at:at] = content[at : at + chance.randrange(1, 40)]


_GETTERS = ["integer", "number", "text", "flag", "texts", "integers", "numbers"]
_MUTATIONS = [_flip, _flip, _overwrite, _overwrite, _truncate, _remove, _repeat]


def _rewrite(path: Path, content: bytearray) -> None:
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


def test_mutants_give_values_or_gguf_errors(tmp_path: Path) -> None:
    chance, sound, path = random.Random(2026), SOUND.build(), tmp_path / "mutant.gguf"
    path.write_bytes(sound)
    n_opened = 0
    for _ in range(N_MUTANT):
        content = bytearray(sound)
        for _ in range(chance.choice([1, 1, 1, 2, 4])):
            chance.choice(_MUTATIONS)(content, chance)
        _rewrite(path, content)
        with suppress(GGUFError), open_gguf(path) as file:
            n_opened += 1
            _read_all(file, chance)
    # Both outcomes must be common, or the mutants prove nothing.
    assert N_MUTANT // 20 < n_opened < N_MUTANT // 2
