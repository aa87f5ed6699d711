"""Stages of a long job ↔ files: each stage is one safetensors file with its fingerprint.

A finished stage is found again by a later run with the same inputs; one made from
other inputs is refused rather than used. Files appear whole or not at all.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from csaq_runtime.errors import ModelError, ResourceError, UsageError

# What decides a stage's content, e.g. {"calibration": sha256, "seed": "7"}.
Fingerprint = Mapping[str, str]


@dataclass(frozen=True)
class WorkDir:
    """A folder of stages; `folder` is created when the first stage is saved."""

    folder: Path

    def path(self, stage: str) -> Path:
        """Where `stage` (a name without slashes) is kept."""
        return self.folder / f"{stage}.safetensors"

    def load(self, stage: str, fingerprint: Fingerprint) -> dict[str, Tensor] | None:
        """The stage's tensors, or None if it has not been made.

        Raises UsageError if it was made from other inputs, ModelError if it is damaged.
        """
        if not self.path(stage).exists():
            return None
        with self._opened(stage, fingerprint) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def load_part(self, stage: str, fingerprint: Fingerprint, prefix: str) -> dict[str, Tensor]:
        """The tensors of an existing stage whose names begin with `prefix`, without it."""
        with self._opened(stage, fingerprint) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}

    def load_one(self, stage: str, fingerprint: Fingerprint, name: str) -> Tensor:
        """One tensor of an existing stage."""
        with self._opened(stage, fingerprint) as file:
            tensor = file.get_tensor(name)
            assert isinstance(tensor, Tensor)
            return tensor

    def names(self, stage: str, fingerprint: Fingerprint) -> list[str]:
        """Names of an existing stage's tensors; the tensors are not read."""
        with self._opened(stage, fingerprint) as file:
            return list(file.keys())

    def has(self, stage: str, fingerprint: Fingerprint) -> bool:
        """Whether `load` would give the stage; raises the same errors, reads no tensor."""
        if not self.path(stage).exists():
            return False
        with self._opened(stage, fingerprint):
            return True

    @contextmanager
    def _opened(self, stage: str, fingerprint: Fingerprint) -> Iterator[Any]:
        path = self.path(stage)
        try:
            with safe_open(path, "pt") as file:
                _check_fingerprint(path, file.metadata() or {}, fingerprint)
                yield file
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ModelError(f"{path}: damaged: {error}", "delete it; it is made again") from error

    def save(self, stage: str, fingerprint: Fingerprint, tensors: Mapping[str, Tensor]) -> None:
        """Write the stage atomically; ResourceError if that fails, which leaves the others."""
        made_of = json.dumps(dict(fingerprint), sort_keys=True)
        hint = "finished stages are kept; make room and start again with the same --work-dir"
        write_tensors(self.path(stage), tensors, {"fingerprint": made_of}, hint)

    def drop(self, stage: str) -> None:
        """Delete a stage that nothing needs any more."""
        self.path(stage).unlink(missing_ok=True)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], hint: str = ""
) -> None:
    """Write a safetensors file that appears whole or not at all; ResourceError if it cannot be."""
    partial = path.with_suffix(".partial")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, partial, dict(metadata))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"{path}: cannot be written: {reason}", hint) from error


def _check_fingerprint(path: Path, metadata: Mapping[str, str], wanted: Fingerprint) -> None:
    made = json.loads(metadata.get("fingerprint", "{}"))
    for key in sorted({*made, *wanted}):
        if made.get(key) != wanted.get(key):
            raise UsageError(
                f"{path}: made with {key} {made.get(key)!r}, now it is {wanted.get(key)!r}",
                "use another --work-dir, or delete this one to start over",
            )
