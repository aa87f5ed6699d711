"""config.json of a Hugging Face folder → values whose kind and range are checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csaq_runtime.errors import ModelError

MAX_JSON_BYTES = 512 * 2**20


def read_json(path: Path, error: type[ModelError] = ModelError) -> dict[str, Any]:
    """A JSON object from `path`; raises `error` if it is missing, too large or something else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise error(f"{path}: larger than 512 MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: {problem.strerror or problem}") from problem
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object")
    return value


@dataclass(frozen=True)
class Config:
    """A JSON object with typed access; `where` names it in messages, `error` is their type."""

    values: Mapping[str, Any]
    where: str
    error: type[ModelError] = ModelError

    def integer(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        """An integer of at least `minimum`; `error` naming the key otherwise."""
        value = self._value(key, default)
        if type(value) is not int or not minimum <= value < 1 << 31:
            raise self.error(f"{self.where}: {key}: {value!r} is not an integer ≥ {minimum}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite, positive number; `error` naming the key otherwise."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            raise self.error(f"{self.where}: {key}: {value!r} is not a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false; `error` naming the key otherwise."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{self.where}: {key}: {value!r} is neither true nor false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string; `error` naming the key otherwise."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(f"{self.where}: {key}: {value!r} is not a string")
        return value

    def part(self, key: str) -> "Config":
        """The object under `key`; empty where the key is absent or null."""
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise self.error(f"{self.where}: {key}: not an object")
        return Config(value, f"{self.where}: {key}", self.error)

    def items(self, key: str) -> list[Any]:
        """The list under `key`; empty where the key is absent or null."""
        value = self._value(key, [])
        if not isinstance(value, list):
            raise self.error(f"{self.where}: {key}: not a list")
        return value

    def objects(self, key: str) -> "list[Config]":
        """The list under `key`, whose entries must be objects."""
        entries = self.items(key)
        if not all(isinstance(entry, dict) for entry in entries):
            raise self.error(f"{self.where}: {key}: an entry is not an object")
        return [Config(entry, f"{self.where}: {key}", self.error) for entry in entries]

    def steps(self, key: str, plural: str) -> "list[Config]":
        """The object under `key`, or those it lists under `plural` if its type is `Sequence`.

        The form in which tokenizers saves normalizers, pre-tokenizers and post-processors.
        """
        step = self.part(key)
        if step.values.get("type") != "Sequence":
            return [step] if step.values else []
        return step.objects(plural)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is None:
            raise self.error(f"{self.where}: {key} is missing")
        return default
