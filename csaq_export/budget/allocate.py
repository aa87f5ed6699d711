"""Model + cost curves + size → the Plan: every tensor's type, the file's exact bytes."""

import json
from collections.abc import Mapping, Sequence

from gguf.gguf_writer import GGUFValue

from csaq_export.budget.curve import Curve
from csaq_export.budget.solver import Option, solve
from csaq_export.budget.target import Target
from csaq_export.metadata import Metadata, text, u32
from csaq_export.model import Model
from csaq_export.plan import Plan, TensorPlan, plan_model, plan_of
from csaq_export.presets import PRESETS
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

# The plan's text in the metadata changes length with the types it names; this settles it.
_MAX_ROUNDS = 8


def target_bytes(model: Model, target: Target) -> int:
    """The largest file size that satisfies `target`."""
    if target.size is not None:
        return target.size
    if target.like is not None:
        return plan_model(model, target.like, importance=True).n_bytes
    assert target.bpw is not None
    return int(target.bpw * plan_model(model, "F16").n_weight / 8)


def allocate(model: Model, curves: Mapping[str, Curve], limit: int, metadata: Metadata) -> Plan:
    """The Plan of least expected divergence within `limit` bytes of file.

    `curves` holds the choices of every matrix by name; other tensors are stored as F32.
    Raises UsageError if even the smallest choices do not fit.
    """
    slack = 0
    for _ in range(_MAX_ROUNDS):
        plan = _allocate_once(model, curves, limit - slack, metadata)
        if plan.n_bytes <= limit:
            return plan
        slack += plan.n_bytes - limit
    raise UsageError(f"{limit:,} bytes: no allocation of this size was found")


def _allocate_once(
    model: Model, curves: Mapping[str, Curve], limit: int, metadata: Metadata
) -> Plan:
    smallest = planned(model, {name: curve.types[0] for name, curve in curves.items()}, metadata)
    names = [tensor.name for tensor in smallest.tensors if tensor.name in curves]
    matrix_bytes = sum(min(o.n_bytes for o in curves[name].options) for name in names)
    chosen = solve(_options(curves, names), limit - (smallest.n_bytes - matrix_bytes))
    if chosen is None:
        raise UsageError(
            f"{limit:,} bytes are too few: the smallest file is {smallest.n_bytes:,} bytes "
            f"({smallest.bpw:.2f} bits per weight)"
        )
    types = {name: curves[name].types[i] for name, i in zip(names, chosen, strict=True)}
    return planned(model, types, metadata)


def _options(curves: Mapping[str, Curve], names: Sequence[str]) -> list[tuple[Option, ...]]:
    return [curves[name].options for name in names]


def planned(model: Model, types: Mapping[str, GGMLType], metadata: Metadata) -> Plan:
    """The Plan with these types (F32 for tensors not named); `metadata` joins the model's own."""
    tensors = tuple(
        TensorPlan(weight, chosen, chosen)
        for weight in model.weights
        for chosen in [types.get(weight.name, GGMLType.F32)]
    )
    keys = (
        model.metadata
        | metadata
        | {
            "general.file_type": u32(_file_type(tensors)),
            "csaq.plan": types_text(types),
        }
    )
    plan = plan_of("", keys, tensors, model.notes)
    return plan_of(f"CSAQ_{plan.bpw:.2f}BPW".replace(".", "_"), keys, tensors, model.notes)


def types_text(types: Mapping[str, GGMLType]) -> GGUFValue:
    """What the key `csaq.plan` says: JSON, the type of every matrix by name."""
    return text(json.dumps({name: t.name for name, t in types.items()}))


def _file_type(tensors: Sequence[TensorPlan]) -> int:
    """llama.cpp's number for the preset built on the type that most weights have."""
    counts: dict[GGMLType, int] = {}
    for tensor in tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + tensor.weight.n_row * tensor.weight.n_col
    most = max(counts, key=lambda t: counts[t])
    return next((preset.file_type for preset in PRESETS.values() if preset.type == most), 0)
