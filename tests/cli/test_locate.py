"""FILE may be a file, or a folder that leaves no doubt."""

import pytest

from csaq_cli.locate import find_gguf
from csaq_runtime.errors import UsageError


def test_file_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.bin").touch()
    assert find_gguf(tmp_path / "a.bin") == tmp_path / "a.bin"


def test_folder_with_one_gguf_means_that_one(tmp_path):
    (tmp_path / "a.gguf").touch()
    (tmp_path / "a.gguf.partial").touch()
    assert find_gguf(tmp_path) == tmp_path / "a.gguf"


def test_folder_with_several_lists_them(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"2 GGUF files, name one: a\.gguf, b\.gguf"):
        find_gguf(tmp_path)


def test_hugging_face_folder_points_to_convert(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(UsageError) as caught:
        find_gguf(tmp_path)
    assert "csaq convert" in caught.value.hint


def test_missing_path_is_named(tmp_path):
    with pytest.raises(UsageError, match="nothing here"):
        find_gguf(tmp_path / "nothing here")
