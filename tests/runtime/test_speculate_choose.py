"""`--spec` → a strategy."""

import pytest

from csaq_runtime.errors import UsageError
from csaq_runtime.speculate.auto import Auto
from csaq_runtime.speculate.choose import check_spec, choose_strategy


def test_off_and_a_length_of_zero_are_plain_decoding() -> None:
    assert choose_strategy("off", 8, None) is None
    assert choose_strategy("auto", 0, None) is None
    assert isinstance(choose_strategy("ngram", 8, None), Auto)


@pytest.mark.parametrize(("spec", "n_max"), [("", 8), ("fast", 8), ("auto", -1), ("auto", 65)])
def test_what_does_not_exist_is_refused(spec: str, n_max: int) -> None:
    with pytest.raises(UsageError):
        check_spec(spec, n_max)
