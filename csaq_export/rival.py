"""Candidates rounded alike and measured on held-out text: of ours the closest, then the preset.

What is compared is the stored matrices' divergence, not the sum that chose their types.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from csaq_export.budget.swaps import Budget, settled
from csaq_export.budget.walk import divergences
from csaq_export.guidance import PROBE_WINDOWS, Guidance
from csaq_export.model import Model
from csaq_export.overrides import Override, overridden
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.presets import PRESETS
from csaq_export.quantize.packed import Packed
from csaq_export.ranks import from_first, is_first
from csaq_export.room import walking_room
from csaq_export.rounded import Rounded, round_tensors
from csaq_runtime.formats import LAYOUTS, GGMLType

Report = Callable[[str, int, int], None]
Candidate = tuple[Plan, Rounded]


def rival_preset(
    model: Model, limit: int, floor: GGMLType, overrides: Sequence[Override]
) -> Plan | None:
    """The largest preset of at most `limit` bytes without types below `floor`, if there is one."""
    presets = (plan_model(model, name, importance=True) for name in PRESETS)
    plans = [overridden(model, plan, overrides) for plan in presets]
    least = LAYOUTS[floor].bpw
    fitting = [
        plan
        for plan in plans
        if plan.n_bytes <= limit and all(LAYOUTS[t.type].bpw >= least for t in plan.tensors)
    ]
    return max(fitting, key=lambda plan: plan.n_bytes, default=None)


def closest(
    guidance: Guidance, budget: Budget, n_swap: int, n_sweep: int, report: Report
) -> Candidate:
    """The solver's plan, or one of at most `n_swap` others of its size that is closer."""

    told = itertools.chain(["rounding"], itertools.repeat("comparing"))

    def measure(plan: Plan) -> float:
        rounded = round_tensors(plan, guidance, n_sweep, report, next(told))
        return from_first(measured(guidance, plan, rounded) if is_first() else 0.0)

    plan = settled(budget, measure, n_swap)
    return plan, round_tensors(plan, guidance, n_sweep, report, "comparing")


def closer(
    guidance: Guidance, ours: Candidate, rival: Plan | None, n_sweep: int, report: Report
) -> Candidate:
    """`ours`, unless the preset's types diverge less on held-out text; then those, with a note.

    The first rank decides; it alone has use for the answer.
    """
    if rival is None:
        return ours
    theirs = rival, round_tensors(rival, guidance, n_sweep, report, "comparing")
    if not is_first():
        return ours
    mine, other = (measured(guidance, *candidate) for candidate in (ours, theirs))
    if mine <= other:
        return ours
    note = f"stored as {rival.type}: closer on held-out text ({other:.5f} against {mine:.5f})"
    return replace(rival, notes=(*rival.notes, note)), theirs[1]


def measured(guidance: Guidance, plan: Plan, rounded: Rounded) -> float:
    """KL divergence on held-out text of the model with a candidate's matrices."""
    tokens = guidance.held.tokens[:PROBE_WINDOWS]
    change = {
        tensor.name: partial(_weight, rounded, tensor, guidance.device)
        for tensor in plan.tensors
        if tensor.name in rounded.places
    }
    model, _ = walking_room(guidance, len(tokens))
    (found,) = divergences(model, tokens, [change], guidance.device)
    return found


def _weight(rounded: Rounded, tensor: TensorPlan, device: torch.device) -> Tensor:
    data = rounded.bytes_of(tensor.name)
    assert data is not None
    return Packed(tensor.type, data.to(device)).weight()
