"""Every hostile GGUF file ends in one GGUFError line naming the field, fast, in little memory."""

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import open_gguf
from tests.malformed.hostile import HOSTILE, N_SOUND, SOUND, Case


@pytest.mark.parametrize("case", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_file_is_one_error_naming_the_field(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(case.content)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(GGUFError) as caught:
        open_gguf(path)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 64 * 2**20
    assert case.field in caught.value.field
    assert caught.value.offset is not None
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400


def test_sound_file_opens(tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    path.write_bytes(SOUND.build())
    with open_gguf(path) as file:
        assert file.texts("tokenizer.ggml.tokens") == ["a", "ß", ""]
        assert file.float32("output_norm.weight").tolist() == [0, 1, 2, 3, 4]
        assert file.tensors["token_embd.weight"].shape == (3, 32)
        assert file.data("output.weight").shape == (2, 144)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(SOUND.build())
    for n_byte in reversed(range(N_SOUND)):
        os.truncate(path, n_byte)
        with pytest.raises(GGUFError):
            open_gguf(path)


def test_trailing_bytes_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(SOUND.build() + b"rest")
    with open_gguf(path) as file:
        assert len(file.tensors) == 3


@pytest.mark.parametrize("count", [2**27, 2**30])
def test_string_count_in_a_sparse_file_is_refused_quickly(count: int, tmp_path: Path) -> None:
    """The count fits the file's size, but the first string already leaves it."""
    content = HOSTILE["array of 2^30 strings"].content
    at = content.index((2**30).to_bytes(8, "little"))
    path = tmp_path / "sparse.gguf"
    path.write_bytes(content[:at] + count.to_bytes(8, "little") + b"\xff" * 8)
    os.truncate(path, 2**34)
    start = time.perf_counter()
    with pytest.raises(GGUFError, match=r"some\.key\[0\]"):
        open_gguf(path)
    assert time.perf_counter() - start < 1


def test_missing_file_directory_and_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.gguf", tmp_path, tmp_path / "pipe", tmp_path / "a\0b"):
        with pytest.raises(GGUFError) as caught:
            open_gguf(path)
        assert caught.value.field == "file"
