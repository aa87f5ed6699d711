"""Units, costs and a size → the tiers of every matrix and the file's exact bytes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGUFValueType
from torch import Tensor

from csaq_export.budget.rows import Clique, solve
from csaq_export.metadata import Metadata, array, f32, text
from csaq_export.methods.csaq.cliques import Unit, protected
from csaq_export.methods.csaq.options import PROTECTED_BITS, CsaqRequest
from csaq_export.methods.mixed import csaq_architecture
from csaq_export.methods.session import Session
from csaq_export.plan import TensorPlan
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, padded
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.rows.names import ROWS, tier_name

# The index and padding grow with the tiers chosen; this settles the size.
_MAX_ROUNDS = 12
_SHORT = 1 << 16


@dataclass(frozen=True)
class Tier:
    """Rows int64 [n] of a matrix, cliques together, and how they are stored."""

    bits: int
    type: GGMLType
    rows: Tensor


Tiers = dict[str, tuple[Tier, ...]]
"""Matrix → tiers, most bits first."""


@dataclass(frozen=True)
class RowsPlan:
    """The file to be: everything in file order, and its exact size."""

    metadata: Metadata
    tiers: Tiers
    tensors: tuple[TensorPlan, ...]
    n_bytes: int


def plan_rows(
    session: Session,
    request: CsaqRequest,
    units: list[Unit],
    costs: Mapping[str, Mapping[int, Tensor]],
    keys: Metadata,
) -> RowsPlan:
    """The largest plan within the bits asked for; UsageError with the arithmetic if none is."""
    n_weight = sum(w.n_row * w.n_col for w in session.model.weights)
    limit = int(request.bpw * n_weight / 8)
    cliques = _cliques(session, request, units, costs)
    least = _built(session, request, units, [c.least for c in cliques], keys, n_weight)
    fixed = least.n_bytes - sum(c.n_bytes[c.least] for c in cliques)
    room = limit - fixed
    for _ in range(_MAX_ROUNDS):
        levels = solve(cliques, room)
        if levels is None:
            break
        plan = _built(session, request, units, levels, keys, n_weight)
        if plan.n_bytes <= limit:
            return plan
        room -= plan.n_bytes - limit
    raise UsageError(
        f"--bpw {request.bpw:g}: the file takes {8 * least.n_bytes / n_weight:.3f} bits per "
        f"weight with {min(request.bits)}-bit rows, their scales and places, and "
        f"{100 * request.protected:g} % of the rows at {PROTECTED_BITS} bits",
        "protect fewer rows (--protection-floor) or give more bits per weight",
    )


def _cliques(
    session: Session,
    request: CsaqRequest,
    units: Sequence[Unit],
    costs: Mapping[str, Mapping[int, Tensor]],
) -> list[Clique]:
    lifted, found = protected(list(units), request.protected), []
    columns = {weight.name: weight.n_col for weight in session.model.weights}
    for number, unit in enumerate(units):
        types = request.types(columns[unit.name])
        each = [row_bytes(kind, columns[unit.name]) for kind in types.values()]
        cost = [float(costs[unit.name][bits][unit.rows].sum()) for bits in types]
        enough = (i for i, bits in enumerate(types) if bits >= PROTECTED_BITS)
        least = next(enough, len(types) - 1) if number in lifted else 0
        found.append(Clique(tuple(n * len(unit.rows) for n in each), tuple(cost), least))
    return found


def _built(
    session: Session,
    request: CsaqRequest,
    units: Sequence[Unit],
    levels: Sequence[int],
    keys: Metadata,
    n_weight: int,
) -> RowsPlan:
    tiers = _tiers(session, request, units, levels)
    tensors = tuple(part for weight in session.model.weights for part in _tensors(weight, tiers))
    own = {"csaq.plan": text(_plan_text(tiers)), "csaq.actual_bpw": f32(0.0)}
    metadata = csaq_architecture(session.model.metadata | keys | own, session.model.architecture)
    n_bytes = len(front_matter(metadata, tensors)) + sum(padded(t.n_bytes) for t in tensors)
    metadata["csaq.actual_bpw"] = f32(8 * n_bytes / n_weight)
    return RowsPlan(metadata, tiers, tensors, n_bytes)


def _tiers(
    session: Session, request: CsaqRequest, units: Sequence[Unit], levels: Sequence[int]
) -> Tiers:
    columns = {weight.name: weight.n_col for weight in session.model.weights}
    members: dict[str, dict[int, list[Tensor]]] = {}
    for unit, level in zip(units, levels, strict=True):
        bits = list(request.types(columns[unit.name]))[level]
        members.setdefault(unit.name, {}).setdefault(bits, []).append(unit.rows)
    return {
        name: tuple(
            Tier(bits, request.types(columns[name])[bits], torch.cat(by_bits[bits]))
            for bits in sorted(by_bits, reverse=True)
        )
        for name, by_bits in members.items()
    }


def _tensors(weight: Weight, tiers: Tiers) -> list[TensorPlan]:
    parts = tiers.get(weight.name)
    if parts is None:
        return [TensorPlan(weight, GGMLType.F32, GGMLType.F32)]
    if len(parts) == 1:
        return [TensorPlan(weight, parts[0].type, parts[0].type)]
    base = weight.name.removesuffix(".weight")
    found = [
        _made(tier_name(base, tier.bits), (len(tier.rows), weight.n_col), tier.type)
        for tier in parts
    ]
    return [*found, _made(f"{base}.{ROWS}", (weight.n_row,), index_type(weight.n_row))]


def index_type(n_row: int) -> GGMLType:
    """How places of `n_row` rows are stored."""
    return GGMLType.I16 if n_row <= _SHORT else GGMLType.I32


def _made(name: str, shape: tuple[int, ...], kind: GGMLType) -> TensorPlan:
    """A tensor whose bytes the method makes itself."""
    empty = Weight(name, shape, kind, lambda start, end: np.empty((0, 0), np.uint8))
    return TensorPlan(empty, kind, kind)


def _plan_text(tiers: Tiers) -> str:
    """JSON: matrix → bits → [type, rows]."""
    described = {
        name: {str(tier.bits): [tier.type.name, len(tier.rows)] for tier in parts}
        for name, parts in tiers.items()
    }
    return json.dumps(described, separators=(",", ":"))


def clique_arrays(labels: Mapping[str, Tensor]) -> Metadata:
    """`csaq.clique.<tensor>` of the matrices that have cliques; 16 bits where they suffice."""
    keys: Metadata = {}
    for name, label in labels.items():
        if int(label.max()) >= 0:
            short = int(label.max()) < _SHORT // 2
            kind = GGUFValueType.INT16 if short else GGUFValueType.INT32
            keys[f"csaq.clique.{name}"] = array(label.tolist(), kind)
    return keys
