"""Model + preset → what the file will hold: every tensor's type and the exact size in bytes.

Made from shapes alone, so that a dry run answers before any weight is read.
"""

from dataclasses import dataclass
from math import prod

from csaq_export.metadata import Metadata, u32
from csaq_export.model import Model
from csaq_export.presets import find_preset
from csaq_export.type_choice import Body, Shape, choose_types
from csaq_export.weight import Weight
from csaq_export.write_gguf import front_matter, padded
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType, row_bytes


@dataclass(frozen=True)
class TensorPlan:
    """A tensor of the file: its weight, its `type`, and the type `wanted` but for its shape."""

    weight: Weight
    type: GGMLType
    wanted: GGMLType

    @property
    def name(self) -> str:
        """GGUF name."""
        return self.weight.name

    @property
    def n_bytes(self) -> int:
        """Packed bytes, padding not included."""
        return self.weight.n_row * row_bytes(self.type, self.weight.n_col)


@dataclass(frozen=True)
class Plan:
    """The file to be: `metadata`, `tensors` in file order and `n_bytes`, its exact size."""

    type: str
    metadata: Metadata
    tensors: tuple[TensorPlan, ...]
    n_bytes: int
    notes: tuple[str, ...]

    @property
    def n_weight(self) -> int:
        """Weights in all tensors."""
        return sum(prod(tensor.weight.shape) for tensor in self.tensors)

    @property
    def bpw(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.n_bytes / self.n_weight

    def with_metadata(self, more: Metadata) -> "Plan":
        """The same tensors with further keys."""
        keys = self.metadata | more
        n_bytes = self.n_bytes - len(front_matter(self.metadata, self.tensors))
        n_bytes += len(front_matter(keys, self.tensors))
        return Plan(self.type, keys, self.tensors, n_bytes, self.notes)


def plan_model(model: Model, type_name: str, importance: bool = False) -> Plan:
    """Choose the types of `model` for `--type type_name`.

    `importance`: calibration will guide the rounding. Raises UsageError for an unknown
    type and for one that needs importance where there is none.
    """
    name, preset = find_preset(type_name)
    if preset.needs_importance and not importance:
        raise UsageError(
            f"{name} needs to know which weights matter, and nothing tells",
            "use Q2_K or Q3_K_S, or calibrate",
        )
    n_head, n_head_kv = (model.number(f"attention.head_count{suffix}") for suffix in ("", "_kv"))
    body = Body(model.architecture, model.number("block_count"), n_head // n_head_kv)
    shapes = [Shape(weight.name, weight.shape) for weight in model.weights]
    choices = choose_types(shapes, body, preset, importance)
    tensors = tuple(
        TensorPlan(weight, choices[weight.name].type, choices[weight.name].wanted)
        for weight in model.weights
    )
    metadata = model.metadata | {"general.file_type": u32(preset.file_type)}
    return plan_of(name, metadata, tensors, model.notes)


def plan_of(
    type_name: str, metadata: Metadata, tensors: tuple[TensorPlan, ...], notes: tuple[str, ...]
) -> Plan:
    """The Plan for given types, its size added up."""
    data_bytes = sum(padded(tensor.n_bytes) for tensor in tensors)
    n_bytes = len(front_matter(metadata, tensors)) + data_bytes
    return Plan(type_name, metadata, tensors, n_bytes, (*notes, *_fallback_notes(tensors)))


def _fallback_notes(tensors: tuple[TensorPlan, ...]) -> list[str]:
    """One line per kind of fallback, as llama-quantize warns of each."""
    kinds: dict[tuple[int, GGMLType, GGMLType], list[str]] = {}
    for tensor in tensors:
        if tensor.type != tensor.wanted:
            key = (tensor.weight.n_col, tensor.wanted, tensor.type)
            kinds.setdefault(key, []).append(tensor.name)
    return [
        f"{len(names)} tensors with rows of {n_col} weights cannot be {wanted.name}, "
        f"stored as {used.name}: {names[0]}{' …' if len(names) > 1 else ''}"
        for (n_col, wanted, used), names in kinds.items()
    ]
