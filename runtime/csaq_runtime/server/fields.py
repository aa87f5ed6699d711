"""Typed and bounded access to a request's JSON object; `null` counts as left out."""

from collections.abc import Mapping
from typing import Any

from csaq_runtime.server.failure import RequestError


class Fields:
    """A JSON object whose fields are checked when they are asked for; others are ignored."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values, self._path = values, path

    def any(self, name: str) -> Any:
        """A field as it is, None where there is none."""
        return self.values.get(name)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self.any(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "must be a number")
        # Written so that infinities, which JSON can smuggle in as 1e999, fail too.
        if not low <= value <= high:
            raise self.error(name, f"must be {low:g} … {high:g}")
        return float(value)

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """An integer from `low` to `high`."""
        value = self.any(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, "must be an integer")
        if not low <= value <= high:
            raise self.error(name, f"must be {low} … {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return default if value is None else value

    def text(self, name: str) -> str | None:
        """A string, None where there is none."""
        value = self.any(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def texts(self, name: str, most: int, longest: int) -> tuple[str, ...]:
        """A string or a list of them; no more than `most`, none longer than `longest`."""
        value = self.any(name)
        items = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise self.error(name, "must be a string or a list of strings")
        if len(items) > most or any(len(item) > longest for item in items):
            raise self.error(name, f"at most {most} strings of {longest} characters")
        return tuple(items)

    def object(self, name: str) -> "Fields":
        """An object; one without fields where there is none."""
        value = self.any(name)
        if value is not None and not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return Fields(value or {}, f"{self._path}{name}.")

    def refuse(self, name: str, why: str) -> None:
        """Refuse a field that would change the reply and is not supported, unless it is empty."""
        if self.any(name):
            raise self.error(name, why)

    def error(self, name: str, reason: str) -> RequestError:
        """The refusal of a field."""
        full = self._path + name
        return RequestError(f"{full}: {reason}", full)
