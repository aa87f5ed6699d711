"""Memory fetched ahead: handed out once, given back where nobody took it, counted once."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csaq_runtime import pages as module
from csaq_runtime.buffers import Arena
from csaq_runtime.memory_limits import Limit
from csaq_runtime.pages import Pages

N_BYTE = 8 << 20
is_linux = pytest.mark.skipif(sys.platform != "linux", reason="no such pages elsewhere")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@is_linux
def test_pages_come_before_anybody_touches_them_and_go_where_nobody_took_them() -> None:
    before = resident_bytes()
    pages = Pages(4 * N_BYTE)
    pages._thread.join()
    assert pages.n_fetched == 4 * N_BYTE
    assert resident_bytes() - before > 3.5 * N_BYTE
    taken = pages.take(N_BYTE)
    pages.close()
    assert resident_bytes() - before < 2 * N_BYTE
    assert taken is not None
    taken[:] = b"\1" * N_BYTE
    assert pages.take(1) is None


@is_linux
def test_an_arena_takes_fetched_memory_first() -> None:
    pages = Pages(N_BYTE)
    arena = Arena(pages)
    first, second, third = arena.take(100), arena.take(N_BYTE), arena.take(64)
    assert third.ctypes.data - first.ctypes.data == 128
    assert first.nbytes == 100
    assert first.ctypes.data % 64 == 0
    pages.close()
    first[:], second[:], third[:] = 1, 2, 3
    del pages, arena
    assert all((array == value).all() for value, array in enumerate((first, second, third), 1))


@pytest.mark.parametrize("n_byte", [0, 1 << 60])
def test_where_there_is_nothing_to_fetch_nothing_is_handed_out(
    n_byte: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: Limit(0, "free memory"))
    pages = Pages(n_byte)
    assert pages.take(1) is None
    pages.close()
    assert np.array_equal(Arena(pages).take(3).shape, [3])


def test_no_more_than_half_of_the_memory_left_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: Limit(2 * N_BYTE, "free memory"))
    pages = Pages(100 * N_BYTE)
    assert pages.take(N_BYTE + 64) is None
    pages.close()


def test_the_module_is_imported_before_all_that_takes_long() -> None:
    code = (
        "import sys, csaq_runtime.pages\n"
        "assert not {'numpy', 'llvmlite', 'csaq_runtime.engine'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
