"""Guidance → what each type would cost each matrix, kept in the work dir.

predicted   a sample of rows rounded to every type, the errors weighed by curvature
scaled      by one measurement each: the divergence with that matrix alone as a small type
bent        the dearest ones measured again as a middle type: where an error is large,
            divergence grows slower than its square, and few bits misjudge many
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from csaq_export.budget.curve import LADDER, Curve, ladder, measure_curve
from csaq_export.budget.solver import Option
from csaq_export.budget.walk import divergences
from csaq_export.guidance import PROBE_WINDOWS, Guidance
from csaq_export.parallel import in_parallel
from csaq_export.quantize.guided import encode_guided
from csaq_export.quantize.packed import Packed
from csaq_export.ranks import from_all_ranks, from_first, is_first, own_share
from csaq_export.room import rounding_room, walking_room
from csaq_export.workdir import WorkDir
from csaq_runtime.formats import GGMLType

Item = TypeVar("Item")
Report = Callable[[str, int, int], None]
CURVES = "costs"
SMALL, MIDDLE = GGMLType.Q2_K, GGMLType.Q4_K
# One matrix in so many is measured at the middle type too.
DEAREST_SHARE = 4
# Noise of tiny divergences is kept out: no factor is further from the usual one either way.
MOST_FACTOR = 4.0


def has_curves(work: WorkDir) -> bool:
    """Whether a run of some text has got as far as the cost curves."""
    return work.path(CURVES).exists()


def curves(guidance: Guidance, report: Report) -> dict[str, Curve]:
    """The Curve of every matrix with a sensitivity."""
    names = list(guidance.sensitivities)
    fingerprint = {**guidance.fingerprint, "types": ",".join(t.name for t in LADDER)}
    if from_first(not guidance.work.has(CURVES, fingerprint)):
        stored = _joined(_measured(guidance, own_share(names), report))
        if is_first():
            guidance.work.save(CURVES, fingerprint, stored)
    else:
        stored = guidance.work.load(CURVES, fingerprint) or {}
    return {name: _from_tensor(name, stored[name]) for name in names}


def _measured(guidance: Guidance, names: Sequence[str], report: Report) -> dict[str, Tensor]:
    """This rank's share of the curves, as they are stored."""
    found = _predicted(guidance, names, report)
    small = {name: _small(curve) for name, curve in found.items()}
    factors = bounded(_joined(measured_factors(guidance, small, "measuring tensors", report)))
    found = {name: curve.scaled(factors[name]) for name, curve in found.items()}
    dearest = own_share(_dearest(_joined({n: c.cost(MIDDLE) for n, c in found.items()})))
    middle = dict.fromkeys(dearest, MIDDLE)
    again = _joined(measured_factors(guidance, middle, "measuring the dearest", report))
    bends = {name: factor / factors[name] for name, factor in bounded(again).items()}
    return {
        name: _as_tensor(curve.bent(SMALL, MIDDLE, bends.get(name, 1.0)))
        for name, curve in found.items()
    }


def _joined(own: Mapping[str, Item]) -> dict[str, Item]:
    """All ranks' entries."""
    return {name: value for share in from_all_ranks(own) for name, value in share.items()}


def _predicted(guidance: Guidance, names: Sequence[str], report: Report) -> dict[str, Curve]:
    done = itertools.count(1)
    report("measuring types", 0, len(names))

    def predict(name: str) -> Curve:
        curve = _curve(guidance, name)
        report("measuring types", next(done), len(names))
        return curve

    return dict(
        zip(
            names,
            in_parallel(predict, names, guidance.device, rounding_room(guidance)),
            strict=True,
        )
    )


def _curve(guidance: Guidance, name: str) -> Curve:
    weight = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    return measure_curve(name, weight, sensitivity, ladder(weight.shape[1]))


def _small(curve: Curve) -> GGMLType:
    return SMALL if SMALL in curve.types else curve.types[0]


def _dearest(costs: Mapping[str, float | None]) -> list[str]:
    """The matrices that cost most at the middle type, of those that can have it."""
    known = {name: cost for name, cost in costs.items() if cost is not None}
    ranked = sorted(known, key=lambda name: (-known[name], name))
    return ranked[: -(-len(ranked) // DEAREST_SHARE)]


def measured_factors(
    guidance: Guidance, types: Mapping[str, GGMLType], stage: str, report: Report
) -> dict[str, float]:
    """Measured over predicted divergence with one matrix alone stored as its type in `types`.

    Curvature knows a layer's outputs but not how errors at different tokens and layers
    meet; a measurement tells.
    """
    tokens, names, factors = guidance.held.tokens[:PROBE_WINDOWS], list(types), {}
    _, step = walking_room(guidance, len(tokens))
    for start in range(0, len(names), step):
        report(stage, start, len(names))
        group = names[start : start + step]

        def rounded(name: str) -> tuple[Packed, float]:
            return _rounded(guidance, name, types[name])

        made = in_parallel(rounded, group, guidance.device, rounding_room(guidance))
        changes = [{n: packed.weight} for n, (packed, _) in zip(group, made, strict=True)]
        model, _ = walking_room(guidance, len(tokens))
        found = divergences(model, tokens, changes, guidance.device)
        for name, (_, expected), divergence in zip(group, made, found, strict=True):
            factors[name] = max(divergence, 0.0) / expected
    return factors


def _rounded(guidance: Guidance, name: str, chosen: GGMLType) -> tuple[Packed, float]:
    """A matrix as that type, and the divergence that curvature expects of it."""
    original = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    packed = Packed(chosen, encode_guided(original, chosen, sensitivity, n_sweep=0))
    return packed, max(sensitivity.loss(packed.weight() - original), 1e-30)


def bounded(factors: Mapping[str, float]) -> dict[str, float]:
    """No further from the median than MOST_FACTOR."""
    middle = sorted(factors.values())[len(factors) // 2] if factors else 0.0
    least, most = middle / MOST_FACTOR, middle * MOST_FACTOR
    return {name: min(max(f, least), most) for name, f in factors.items()}


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
