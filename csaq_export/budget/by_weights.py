"""Model + size and no text → a stock preset's types, raised where the rest of the bytes help most.

Without text nothing tells what an error in one matrix does to the predictions. The preset's
authors' experience does, so no matrix gets a smaller type than the largest preset that fits
gives it; upgrades go where they take off most of the error, relative to the matrix.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from csaq_export.budget.allocate import allocate
from csaq_export.budget.curve import CODEBOOKS, Curve, fixed_curve, ladder, sampled_rows
from csaq_export.budget.solver import Option
from csaq_export.metadata import Metadata
from csaq_export.model import Model
from csaq_export.overrides import Override, fixed_types, overridden
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.presets import PRESETS
from csaq_export.quantize import decode, encode
from csaq_export.type_choice import Shape, is_quantizable
from csaq_export.weight import Weight
from csaq_export.write_gguf import padded
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes


def plan_by_weights(
    model: Model,
    limit: int,
    overrides: Sequence[Override],
    importance: Mapping[str, Tensor],
    metadata: Metadata,
) -> Plan:
    """The Plan of at most `limit` bytes; `importance` float32 [n_col] by tensor name weighs errors.

    Raises UsageError where not even the smallest preset fits.
    """
    base = _largest_preset(model, limit, overrides, bool(importance))
    fixed = fixed_types(base.tensors, overrides)
    curves = {
        tensor.name: fixed_curve(tensor.weight, fixed[tensor.name])
        if tensor.name in fixed
        else _curve(tensor, importance.get(tensor.name))
        for tensor in base.tensors
        if is_quantizable(Shape(tensor.name, tensor.weight.shape))
    }
    try:
        return allocate(model, curves, limit, metadata)
    except UsageError:
        # The preset leaves no room for our own keys.
        return base


def _largest_preset(
    model: Model, limit: int, overrides: Sequence[Override], importance: bool
) -> Plan:
    """The largest that needs no imatrix or has one, and `limit` bytes at most."""
    usable = [name for name, preset in PRESETS.items() if importance or not preset.needs_importance]
    presets = [overridden(model, plan_model(model, n, importance), overrides) for n in usable]
    fitting = [plan for plan in presets if plan.n_bytes <= limit]
    if not fitting:
        least = min(presets, key=lambda plan: plan.n_bytes)
        raise UsageError(
            f"{limit:,} bytes are too few: {least.type} takes {least.n_bytes:,} "
            f"({least.bpw:.2f} bits per weight)",
            "smaller files need --calib, a text that shows which weights matter",
        )
    return max(fitting, key=lambda plan: plan.n_bytes)


def _curve(tensor: TensorPlan, importance: Tensor | None) -> Curve:
    """The preset's type and those above it; costs are relative squared errors of some rows."""
    weight = tensor.weight
    least = LAYOUTS[tensor.type].bpw
    larger = (
        kind for kind in ladder(weight.n_col) if LAYOUTS[kind].bpw > least and kind not in CODEBOOKS
    )
    types = (tensor.type, *larger)
    sample = _sample(weight)
    options = tuple(
        Option(padded(weight.n_row * row_bytes(t, weight.n_col)), _error(sample, t, importance))
        for t in types
    )
    return Curve(weight.name, types, options)


def _sample(weight: Weight) -> Tensor:
    rows = sampled_rows(weight.n_row).tolist()
    return torch.cat([weight.float32(slice(row, row + 1)) for row in rows])


def _error(sample: Tensor, ggml_type: GGMLType, importance: Tensor | None) -> float:
    change = decode(encode(sample, ggml_type, importance), ggml_type) - sample
    counts = torch.ones(sample.shape[1]) if importance is None else importance
    return float((change.square() @ counts).sum() / (sample.square() @ counts).sum().clamp(1e-30))
