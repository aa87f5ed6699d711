"""How the parts of a step are emitted."""

import pytest
from numba.core import event
from numba.core.cpu import CPUContext

from csaq_runtime.kernels import jit


def test_numba_has_its_own_parts_again_after_emitting_even_when_that_fails():
    before = CPUContext.get_executable, event.broadcast
    seen = []

    def fail():
        with jit._without_machine_code():
            seen.extend((CPUContext.get_executable, event.broadcast))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not set(seen) & set(before)
    assert (CPUContext.get_executable, event.broadcast) == before


def test_a_numba_without_one_of_the_parts_keeps_all_others(monkeypatch):
    before = CPUContext.get_executable
    monkeypatch.delattr(event, "broadcast")
    with jit._without_machine_code():
        assert CPUContext.get_executable is before
