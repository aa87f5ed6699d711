"""Calibration text + model → sensitivities, kept in a work dir.

The expensive part of a calibrated conversion; a change of budget starts after it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from csaq_export.calibration import Calibration, read_calibration
from csaq_export.device import find_device
from csaq_export.footprint import (
    Shapes,
    keep_bytes,
    memory_limit,
    n_worker,
    shapes_of,
)
from csaq_export.layered_model import LayeredModel, open_layered
from csaq_export.own_text import write_calibration
from csaq_export.sensitivity import Sensitivity, sensitivities
from csaq_export.statistics import Collection, collect, collect_until_stable, windows_of
from csaq_export.torch_model import load_tokenizer, load_torch_model
from csaq_export.workdir import Fingerprint, WorkDir
from csaq_runtime.errors import UsageError

Report = Callable[[str, int, int], None]
# Windows kept back from calibration to measure divergence on.
HELD_SHARE = 8
# Windows per batch follow from this: enough for full speed, little beside a model's weights.
TOKENS_AT_ONCE = 2048
# Windows on which changed models are measured.
PROBE_WINDOWS = 6
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Calibrating:
    """How to calibrate: `n_sample` windows of `seq_len` tokens of `source`, drawn with `seed`.

    Without a `source` the model writes them. `stable` > 0 ends the collection when the
    salience of rows and columns ranks alike to that correlation. `max_memory` in bytes
    bounds what is held in memory, the device's on CUDA.
    """

    source: str | None
    n_sample: int
    seq_len: int
    seed: int
    device: str
    stable: float = 0.0
    max_memory: int | None = None

    @property
    def batch_size(self) -> int:
        """Windows that run at once."""
        return max(1, TOKENS_AT_ONCE // self.seq_len)

    @property
    def tokens_at_once(self) -> int:
        """Tokens of a batch."""
        return min(self.batch_size, self.n_sample) * self.seq_len


@dataclass(frozen=True)
class Guidance:
    """The model in `folder` and what is known about its tensors, by name; `limit`: bytes."""

    folder: Path
    model: LayeredModel
    calibration: Calibration
    held: Calibration
    sensitivities: Mapping[str, Sensitivity]
    work: WorkDir
    fingerprint: dict[str, str]
    device: torch.device
    shapes: Shapes
    limit: int

    @property
    def n_worker(self) -> int:
        """Matrices that memory has room to round side by side."""
        return n_worker(self.shapes, self.limit, self.device)


def guide(
    folder: Path,
    wanted: Calibrating,
    work: WorkDir,
    report: Report,
    windows: Calibration | None = None,
) -> Guidance:
    """Calibrate the model in `folder`; what `work` already holds is not made again.

    `windows` replace those that `wanted` would draw.
    """
    device = find_device(wanted.device)
    model, shapes, limit = open_within(folder, wanted, device)
    identity = {"model": model_digest(folder), "seed": str(wanted.seed)}
    text = windows or _windows(folder, wanted, work, identity, report)
    if len(text.tokens) < 2:
        raise UsageError(f"{wanted.source}: too short to keep a window back for measuring")
    calibration, held = text.split(n_held(len(text.tokens)))
    settings = Collection(wanted.batch_size, device, 0.0, {})
    decoder = model.decoder(wanted.seq_len, device)
    given = (decoder, calibration, work, identity, settings)
    if wanted.stable:
        statistics = collect_until_stable(*given, wanted.stable, report)
        calibration = calibration.first(windows_of(statistics, wanted.seq_len))
    else:
        statistics = collect(*given, report)
    # Rounding comes next, which takes matrices from the files.
    model.keeping(0)
    found = sensitivities(model, statistics)
    fingerprint = dict(statistics.fingerprint)
    return Guidance(
        folder, model, calibration, held, found, work, fingerprint, device, shapes, limit
    )


def open_within(
    folder: Path, wanted: Calibrating, device: torch.device
) -> tuple[LayeredModel, Shapes, int]:
    """The model, its shapes and the bytes it may use; ResourceError if these are too few."""
    model = open_layered(folder)
    n_ctx = int(model.model.config.max_position_embeddings)
    if wanted.seq_len > n_ctx:
        raise UsageError(f"--seqlen {wanted.seq_len}: the model's context has {n_ctx} tokens")
    shapes = shapes_of(model.slots.values())
    limit = memory_limit(wanted.max_memory, device)
    kept = keep_bytes(shapes, wanted.tokens_at_once, limit, device)
    return replace(model, keep_bytes=kept), shapes, limit


def n_held(n_window: int) -> int:
    """Windows of `n_window` that are kept back to measure divergence on."""
    return max(1, n_window // HELD_SHARE)


def _windows(
    folder: Path,
    wanted: Calibrating,
    work: WorkDir,
    identity: Fingerprint,
    report: Report,
) -> Calibration:
    """Given or written windows; to write them takes the whole model on the CPU at once."""
    tokenizer, shape = load_tokenizer(folder), (wanted.n_sample, wanted.seq_len, wanted.seed)
    if wanted.source is not None:
        return read_calibration(wanted.source, tokenizer, *shape)
    model = load_torch_model(folder).model
    return write_calibration(model, tokenizer, shape, work, identity, report)


def model_digest(folder: Path) -> str:
    """sha256 of the configuration and of the ends of every weight file."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()
