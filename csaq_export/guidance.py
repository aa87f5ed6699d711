"""Calibration text + model → sensitivities and cost curves, kept in a work dir.

The expensive part of a calibrated conversion; a change of budget starts after it.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.budget.curve import LADDER, Curve, ladder, measure_curve
from csaq_export.budget.solver import Option
from csaq_export.budget.walk import copies_at_once, divergences
from csaq_export.calibration import Calibration, read_calibration
from csaq_export.device import find_device
from csaq_export.footprint import (
    Shapes,
    check_whole,
    keep_bytes,
    memory_limit,
    n_worker,
    shapes_of,
)
from csaq_export.layered_model import LayeredModel, open_layered
from csaq_export.own_text import write_calibration
from csaq_export.parallel import in_parallel
from csaq_export.quantize.guided import encode_guided
from csaq_export.quantize.packed import Packed
from csaq_export.ranks import from_all_ranks, from_first, is_first, own_share
from csaq_export.sensitivity import Sensitivity, sensitivities
from csaq_export.statistics import Collection, collect, collect_until_stable, windows_of
from csaq_export.torch_model import load_tokenizer, load_torch_model
from csaq_export.workdir import Fingerprint, WorkDir
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

Report = Callable[[str, int, int], None]
# Windows kept back from calibration to measure divergence on.
HELD_SHARE = 8
# Windows per batch follow from this: enough for full speed, little beside a model's weights.
TOKENS_AT_ONCE = 2048
# Windows on which each tensor is measured: a forward pass per tensor is the cost.
PROBE_WINDOWS = 6
_SAMPLE_BYTES = 1 << 20
CURVES = "curves"


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
        """Matrices that are rounded side by side, as memory allows."""
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
    text = windows or _windows(folder, wanted, (shapes, limit), work, identity, report)
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
    shapes = shapes_of(list(model.slots.values()), model.tied)
    limit = memory_limit(wanted.max_memory, device)
    n_token = min(wanted.batch_size, wanted.n_sample) * wanted.seq_len
    kept = keep_bytes(shapes, n_token, limit, device)
    return replace(model, keep_bytes=kept), shapes, limit


def n_held(n_window: int) -> int:
    """Windows of `n_window` that are kept back to measure divergence on."""
    return max(1, n_window // HELD_SHARE)


def has_curves(work: WorkDir) -> bool:
    """Whether a run of some text has got as far as the cost curves."""
    return work.path(CURVES).exists()


def _windows(
    folder: Path,
    wanted: Calibrating,
    room: tuple[Shapes, int],
    work: WorkDir,
    identity: Fingerprint,
    report: Report,
) -> Calibration:
    """Given or written windows; to write them takes the whole model on the CPU at once."""
    tokenizer, shape = load_tokenizer(folder), (wanted.n_sample, wanted.seq_len, wanted.seed)
    if wanted.source is not None:
        return read_calibration(wanted.source, tokenizer, *shape)
    check_whole(*room)
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


def curves(guidance: Guidance, report: Report) -> dict[str, Curve]:
    """The Curve of every matrix: predicted from curvature, scaled by one measurement each."""
    names = list(guidance.sensitivities)
    fingerprint = {**guidance.fingerprint, "types": ",".join(t.name for t in LADDER)}
    if from_first(not guidance.work.has(CURVES, fingerprint)):
        predicted = _predicted(guidance, own_share(names), report)
        measured = measured_factors(guidance, predicted, report)
        factors = _bounded({n: f for share in from_all_ranks(measured) for n, f in share.items()})
        own = {n: _as_tensor(curve.scaled(factors[n])) for n, curve in predicted.items()}
        stored = {n: rows for share in from_all_ranks(own) for n, rows in share.items()}
        if is_first():
            guidance.work.save(CURVES, fingerprint, stored)
    else:
        stored = guidance.work.load(CURVES, fingerprint) or {}
    return {name: _from_tensor(name, stored[name]) for name in names}


def _predicted(guidance: Guidance, names: Sequence[str], report: Report) -> dict[str, Curve]:
    done = itertools.count(1)

    def predict(name: str) -> Curve:
        curve = _curve(guidance, name)
        report("measuring types", next(done), len(names))
        return curve

    return dict(
        zip(names, in_parallel(predict, names, guidance.device, guidance.n_worker), strict=True)
    )


def _curve(guidance: Guidance, name: str) -> Curve:
    weight = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    return measure_curve(name, weight, sensitivity, ladder(weight.shape[1]))


def measured_factors(
    guidance: Guidance, predicted: dict[str, Curve], report: Report
) -> dict[str, float]:
    """Measured over predicted divergence when one tensor alone is stored as a small type.

    Curvature knows a layer's outputs but not how errors at different tokens and layers
    meet; one measurement per tensor tells.
    """
    model, tokens = guidance.model, guidance.held.tokens[:PROBE_WINDOWS]
    names, step, factors = list(predicted), copies_at_once(guidance.model, tokens), {}
    for start in range(0, len(names), step):
        report("measuring tensors", start, len(names))
        group = names[start : start + step]

        def rounded(name: str) -> tuple[Packed, float]:
            return _rounded_small(guidance, name, predicted[name])

        made = in_parallel(rounded, group, guidance.device, guidance.n_worker)
        changes = [{n: packed.weight} for n, (packed, _) in zip(group, made, strict=True)]
        found = divergences(model, tokens, changes, guidance.device)
        for name, (_, expected), divergence in zip(group, made, found, strict=True):
            factors[name] = max(divergence, 0.0) / expected
    return factors


def _rounded_small(guidance: Guidance, name: str, curve: Curve) -> tuple[Packed, float]:
    """A matrix as a small type, and the divergence that curvature expects of it."""
    original = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    small = GGMLType.Q2_K if GGMLType.Q2_K in curve.types else curve.types[0]
    packed = Packed(small, encode_guided(original, small, sensitivity, n_sweep=0))
    return packed, max(sensitivity.loss(packed.weight() - original), 1e-30)


def _bounded(factors: dict[str, float]) -> dict[str, float]:
    """Keep noise of tiny divergences out: at most 4 times the median either way."""
    middle = sorted(factors.values())[len(factors) // 2]
    return {name: min(max(f, middle / 4), middle * 4) for name, f in factors.items()}


def _as_tensor(curve: Curve) -> Tensor:
    rows = [
        (int(t), option.n_bytes, option.cost)
        for t, option in zip(curve.types, curve.options, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def _from_tensor(name: str, rows: Tensor) -> Curve:
    values = rows.tolist()
    types = tuple(GGMLType(int(row[0])) for row in values)
    return Curve(name, types, tuple(Option(int(row[1]), row[2]) for row in values))
