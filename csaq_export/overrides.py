"""`--tensor-type REGEX=TYPE`, as llama-quantize has it: the user's own word on some tensors."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from csaq_export.model import Model
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.quantize import ENCODABLE
from csaq_export.type_choice import Shape, is_quantizable
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType


@dataclass(frozen=True)
class Override:
    """Matrices in whose name `pattern` is found are stored as `type`."""

    pattern: re.Pattern[str]
    type: GGMLType


def read_type(name: str) -> GGMLType:
    """The type of that name; UsageError for presets and unknown names."""
    try:
        return GGMLType[name.upper()]
    except KeyError:
        raise UsageError(f"unknown type {name!r}", "a type such as Q4_K, not a preset") from None


def read_override(text: str) -> Override:
    """The Override of `REGEX=TYPE`; UsageError for anything else."""
    pattern, separator, type_name = text.rpartition("=")
    if not separator:
        raise UsageError(f"--tensor-type {text!r}: not REGEX=TYPE")
    try:
        return Override(re.compile(pattern), read_type(type_name))
    except re.error as error:
        raise UsageError(f"--tensor-type {text!r}: not a regular expression: {error}") from error


def fixed_types(
    tensors: Sequence[TensorPlan], overrides: Sequence[Override]
) -> dict[str, GGMLType]:
    """Type by tensor name of all matrices that match; the first match wins.

    Raises UsageError for a pattern without a match and for types that a tensor cannot have.
    """
    matrices = [t for t in tensors if is_quantizable(Shape(t.name, t.weight.shape))]
    found: dict[str, GGMLType] = {}
    for override in overrides:
        matching = [t for t in matrices if override.pattern.search(t.name)]
        if not matching:
            wanted = f"{override.pattern.pattern}={override.type.name}"
            raise UsageError(f"--tensor-type {wanted}: the model has no such matrix")
        for tensor in matching:
            _check(tensor, override.type)
            found.setdefault(tensor.name, override.type)
    return found


def _check(tensor: TensorPlan, wanted: GGMLType) -> None:
    if wanted not in ENCODABLE:
        raise UsageError(f"{tensor.name}: cannot be {wanted.name}", "there is no encoder for it")
    if tensor.weight.n_col % LAYOUTS[wanted].block_size:
        raise UsageError(
            f"{tensor.name}: cannot be {wanted.name}",
            f"its rows of {tensor.weight.n_col} weights do not divide into blocks of "
            f"{LAYOUTS[wanted].block_size}",
        )


def overridden(model: Model, plan: Plan, overrides: Sequence[Override]) -> Plan:
    """`plan` of `model` with the user's types in place of its own."""
    if not overrides:
        return plan
    fixed = fixed_types(plan.tensors, overrides)
    tensors = tuple(
        replace(tensor, type=fixed[tensor.name], wanted=fixed[tensor.name])
        if tensor.name in fixed
        else tensor
        for tensor in plan.tensors
    )
    return plan_of(plan.type, plan.metadata, tensors, model.notes)
