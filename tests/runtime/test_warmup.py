"""Warming up the object cache: what is missing gets compiled, what is outdated gets deleted."""

from pathlib import Path

import pytest

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.compile import delete_outdated, object_path
from csaq_runtime.simd.target import host_target
from csaq_runtime.warmup import all_modules, compile_modules, missing_modules, needed_modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSAQ_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def test_modules_compile_in_processes_of_their_own_and_are_then_there(folder: Path) -> None:
    names, seen = ["activation", "F32"], []
    assert missing_modules(names) == names
    compile_modules(names, lambda n_done, n_module: seen.append((n_done, n_module)))
    assert missing_modules(names) == []
    assert seen == [(1, 2), (2, 2)]


def test_a_module_that_cannot_be_compiled_stays_missing(folder: Path) -> None:
    compile_modules(["no such module"])
    assert missing_modules(["no such module"]) == ["no such module"]


def test_only_objects_of_other_sources_are_deleted(folder: Path) -> None:
    current = object_path("step-numba-1.2.3", host_target())
    folder.mkdir()
    outdated = [folder / "Q4_K-0123456789abcdef-feed.o", folder / "Q4_K-0123.o"]
    for path in (current, *outdated, folder / "note.txt"):
        path.write_bytes(b"x")
    assert delete_outdated() == 2
    assert sorted(folder.iterdir()) == sorted([current, folder / "note.txt"])


def test_every_type_has_its_module() -> None:
    names = all_modules()
    assert len(set(names)) == len(names)
    assert set(needed_modules([GGMLType.Q4_K, GGMLType.IQ2_XS])) < set(names)
