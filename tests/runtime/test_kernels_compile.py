"""The object cache: reused, rebuilt when damaged or foreign, harmless when unwritable."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import ir

from csaq_runtime.kernels.compile import load_module
from csaq_runtime.kernels.module import new_function
from csaq_runtime.simd.target import host_target
from csaq_runtime.simd.vector import store


class Source:
    """Builds a module that adds two numbers, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.n_build = 0

    def build(self) -> ir.Module:
        self.n_build += 1
        module = ir.Module("add")
        module.triple = host_target().triple
        function, b = new_function(module, "add", 3)
        x, y, out = function.args
        store(b, b.add(x, y), out)
        b.ret_void()
        return module

    def sum(self, x: int, y: int) -> int:
        address = load_module("add", host_target(), self.build)("add")
        result = ctypes.c_int64()
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)
        function(x, y, ctypes.addressof(result))
        return result.value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CSAQ_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def test_second_load_reads_the_object(folder: Path) -> None:
    source = Source()
    assert source.sum(2, 3) == 5
    assert source.sum(4, 5) == 9
    assert source.n_build == 1
    assert [path.suffix for path in folder.iterdir()] == [".o"]


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 4000])
def test_damaged_object_is_rebuilt(folder: Path, damage: bytes) -> None:
    source = Source()
    source.sum(1, 1)
    next(folder.iterdir()).write_bytes(damage)
    assert source.sum(20, 22) == 42
    assert source.n_build == 2
    assert source.sum(1, 1) == 2
    assert source.n_build == 2


def test_object_that_others_can_write_is_not_run(folder: Path) -> None:
    source = Source()
    source.sum(1, 1)
    next(folder.iterdir()).chmod(0o666)
    assert source.sum(2, 2) == 4
    assert source.n_build == 2


def test_unusable_folder_costs_only_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CSAQ_CACHE_DIR", str(tmp_path / "file"))
    assert Source().sum(3, 4) == 7


def test_sources_are_hashed_as_imported_so_an_upgrade_meanwhile_loads_no_foreign_code():
    code = (
        "import pathlib\n"
        "from csaq_runtime.kernels import compile as module\n"
        "pathlib.Path.read_bytes = lambda path: b'upgraded'\n"
        "before = module.source_hash()\n"
        "module.source_hash.cache_clear()\n"
        "assert module.source_hash() != before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
