"""`/set` takes llama.cpp's names and refuses values that make no sense."""

import pytest

from csaq_cli.chat.settings import BOUNDS, changed, shown
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampling


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("temp", "0.2", "temperature", 0.2),
        ("top-k", "10", "top_k", 10),
        ("top_p", "1", "top_p", 1.0),
        ("seed", "9", "seed", 9),
        ("seed", "-1", "seed", None),
        ("repeat-penalty", "1.1", "repeat_penalty", 1.1),
    ],
)
def test_setting_is_taken(name, value, field, expected):
    assert getattr(changed(Sampling(seed=1), name, value), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("color", "red"), ("temp", "hot"), ("temp", "nan"), ("temp", "inf"), ("top_p", "1.1"),
     ("top_k", "2.5"), ("top_k", "-3"), ("seed", str(2**40)), ("temp", "")],
)  # fmt: skip
def test_nonsense_is_refused_by_name(name, value):
    with pytest.raises(UsageError, match=name if name != "temp" else "temp"):
        changed(Sampling(), name, value)


def test_every_number_of_sampling_can_be_set_and_shown():
    assert set(BOUNDS) == set(Sampling.__dataclass_fields__) - {"logit_bias"}  # a table of tokens
    assert all(f"{name} = " in shown(Sampling()) for name in BOUNDS)
