"""Units, costs and a size → the tiers of every matrix and the file's exact bytes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGUFValueType
from torch import Tensor

from csaq_export.budget.cliques import (
    PROTECTED_BITS,
    Clique,
    least_bytes,
    lift_large,
    protected_level,
    solve,
)
from csaq_export.metadata import Metadata, array, f32, text
from csaq_export.methods.csaq.cliques import Unit, protected
from csaq_export.methods.csaq.options import CsaqRequest
from csaq_export.methods.mixed import csaq_architecture
from csaq_export.methods.session import Session
from csaq_export.plan import TensorPlan
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, padded
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.rows.names import CLIQUE, ROWS, tier_name

_MAX_ROUNDS = 16
# Bytes of the size asked for that may stay unused: less than a row.
_SPARE = 32
# Bits per weight of it that may, where nothing is left to spend them on.
_MISS = 0.005
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

    def built(levels: Sequence[int]) -> RowsPlan:
        return _built(session, request, units, levels, keys, n_weight)

    least = built([clique.least for clique in cliques])
    if least.n_bytes > limit:
        raise _too_small(request, least_bytes(cliques), least.n_bytes, n_weight)
    raised = lift_large(cliques, limit - least.n_bytes + least_bytes(cliques))
    lifted = built([clique.least for clique in raised])
    if lifted.n_bytes <= limit:
        cliques, least = raised, lifted
    found, is_all = _largest(cliques, least, limit, built)
    if is_all and limit - found.n_bytes > _MISS * n_weight / 8:
        raise UsageError(
            f"--bpw {request.bpw:g}: more than {8 * found.n_bytes / n_weight:.3f} bits per weight "
            f"bring nothing with rows of at most {max(request.bits)} bits",
            "allow more bits (--bits) or give fewer bits per weight",
        )
    return found


def _largest(
    cliques: Sequence[Clique], least: RowsPlan, limit: int, built: Callable[[list[int]], RowsPlan]
) -> tuple[RowsPlan, bool]:
    """The largest plan of at most `limit` bytes, and whether more bytes would bring nothing.

    Index, padding and descriptions follow from the rows' bits, so what is left for the rows is
    known only when they are chosen: guesses close in on it from both sides.
    """
    best, enough = least, least_bytes(cliques)
    too_much = limit + 1
    room = limit - least.n_bytes + enough
    for _ in range(_MAX_ROUNDS):
        levels = solve(cliques, room)
        assert levels is not None
        plan = built(levels)
        over = plan.n_bytes - limit
        if over > 0:
            too_much = room
        else:
            enough, best = room, max(best, plan, key=lambda plan: plan.n_bytes)
        if 0 <= -over <= _SPARE or too_much - enough < 2:
            break
        room -= over
        if not enough < room < too_much:
            room = (enough + too_much) // 2
    return best, best.n_bytes < limit and too_much > limit


def _too_small(request: CsaqRequest, rows: int, n_bytes: int, n_weight: int) -> UsageError:
    bits = 8 / n_weight
    return UsageError(
        f"--bpw {request.bpw:g}: the file takes {bits * n_bytes:.3f} bits per weight with "
        f"{min(request.bits)}-bit rows and {100 * request.protected:g} % of the rows at "
        f"{PROTECTED_BITS} bits: {bits * rows:.3f} for rows with their scales, "
        f"{bits * (n_bytes - rows):.3f} for vectors, places, cliques, vocabulary and index",
        "protect fewer rows (--protection-floor) or give more bits per weight",
    )


def _cliques(
    session: Session,
    request: CsaqRequest,
    units: Sequence[Unit],
    costs: Mapping[str, Mapping[int, Tensor]],
) -> list[Clique]:
    lifted, found = protected(units, request.protected), []
    columns = {weight.name: weight.n_col for weight in session.model.weights}
    for number, unit in enumerate(units):
        types = request.types(columns[unit.name])
        each = [row_bytes(kind, columns[unit.name]) for kind in types.values()]
        cost = [float(costs[unit.name][bits][unit.rows].sum()) for bits in types]
        least = protected_level(list(types)) if number in lifted else 0
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
            keys[f"{CLIQUE}{name}"] = array(label.tolist(), kind)
    return keys
