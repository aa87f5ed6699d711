"""What `csaq run` does before its imports: undone afterwards, whatever happens in between."""

import gc
import os
import sys

import pytest

from csaq_cli.early import early_pages


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable, and as it was afterwards."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")


def test_garbage_is_left_alone_until_the_engine_is_open() -> None:
    before = sys.getswitchinterval()
    with early_pages(4096) as pages:
        assert not gc.isenabled()
        assert sys.getswitchinterval() < before
        assert os.environ["OPENBLAS_NUM_THREADS"] == "1"
    assert gc.isenabled()
    assert sys.getswitchinterval() == before
    assert pages.take(1) is None


def test_a_failure_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), early_pages(4096) as pages:
        raise ZeroDivisionError
    assert gc.isenabled()
    assert pages.take(1) is None


def test_what_the_user_chose_for_numpy_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with early_pages(4096):
        assert os.environ["OPENBLAS_NUM_THREADS"] == "3"
