"""Long metadata is shortened, whatever its kind."""

import json

import numpy as np
import pytest

from csaq_cli import inventory
from csaq_cli.inventory import abbreviated


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7, 7),
        ("short", "short"),
        (True, True),
        ([1, 2], [1, 2]),
        (np.arange(3), [0, 1, 2]),
        (np.float32(0.5), 0.5),
        (["a"] * 1000, [*["a"] * 6, "… 1,000 in all"]),
        (np.zeros(1000, np.int32), [*[0] * 6, "… 1,000 in all"]),
    ],
)
def test_value_is_shown(value, shown):
    assert abbreviated(value) == shown
    json.dumps(abbreviated(value))


def test_memory_is_estimated_for_the_context_that_run_takes():
    from csaq_runtime import engine

    assert inventory.DEFAULT_N_CTX == engine.DEFAULT_N_CTX


def test_long_text_keeps_its_beginning():
    shown = abbreviated("x" * 5000)
    assert len(shown) < 250
    assert shown.startswith("x" * 200 + "…")


def test_long_texts_inside_a_list_are_shortened_too():
    assert len(abbreviated(["x" * 5000])[0]) < 250
