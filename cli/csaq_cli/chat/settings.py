"""`/set NAME VALUE`: sampling settings by llama.cpp's names, checked before they are taken."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_runtime.sample import Sampling

# the names of the command line → the fields of Sampling
ALIASES = {"temp": "temperature"}
WHOLE = ("top_k", "repeat_last_n", "seed")
BOUNDS = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_penalty": (0.01, 100.0),
    "repeat_last_n": (-1, 2**31 - 1),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "seed": (-1, 2**32 - 1),
}


def changed(sampling: "Sampling", name: str, value: str) -> "Sampling":
    """`sampling` with one setting replaced; raises UsageError naming what is wrong."""
    field = ALIASES.get(name, name).replace("-", "_")
    if field not in BOUNDS:
        raise UsageError(f"no setting '{name}'", f"settings: {', '.join(BOUNDS)}")
    low, high = BOUNDS[field]
    number = _number(value, field)
    if not low <= number <= high:
        raise UsageError(f"{name} must lie between {low} and {high}")
    new: dict[str, Any] = {field: None if field == "seed" and number == -1 else number}
    return replace(sampling, **new)


def shown(sampling: "Sampling") -> str:
    """All settings with their values, one a line."""
    return "\n".join(f"{name} = {getattr(sampling, name)}" for name in BOUNDS)


def _number(value: str, field: str) -> float:
    try:
        number = int(value) if field in WHOLE else float(value)
    except ValueError:
        raise UsageError(f"{field}: '{value}' is not a number") from None
    if not math.isfinite(number):
        raise UsageError(f"{field}: '{value}' is not a finite number")
    return number
