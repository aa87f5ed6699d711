"""A rows file → a stock file of the same weights, which llama.cpp and others load.

A matrix of one type and nothing beside it is copied byte for byte. Any other becomes F16: no
smaller type holds rows of several types without another rounding, and F16 is off by 2⁻¹¹ of a
weight at most, far less than the types themselves. For a smaller file convert the result again,
or put what one type cannot hold into an adapter (see `sidecar`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from csaq_export.budget.allocate import planned
from csaq_export.imatrix import read_importance
from csaq_export.lora import adapter_path, write_adapter
from csaq_export.metadata import u32
from csaq_export.methods.sidecar import Split, split_matrices
from csaq_export.model import Model
from csaq_export.pipeline import Conversion, Progress, write_plan
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.presets import find_preset
from csaq_export.source import open_model
from csaq_export.write_gguf import check_place
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from csaq_runtime.rows.names import is_rows

TYPE = "F16"


def convert_stock(
    conversion: Conversion, progress: Callable[[Progress], None], lora: bool = False
) -> Plan:
    """Write the file, with `lora` an adapter beside it, and return its plan.

    UsageError for a source of another layout.
    """
    with open_gguf(conversion.source) as file:
        if not is_rows(file.text("general.architecture")):
            raise UsageError(
                f"{conversion.source}: has the stock layout already", "leave --layout out"
            )
        adapter = adapter_path(conversion.out)
        if lora:
            check_place(adapter, 0, conversion.force)
        split = split_matrices(file) if lora else {}
        with open_model(conversion.source) as model:
            plan = _plan(model, split)
            write_plan(plan, conversion, read_importance(None, model), progress)
            if lora:
                factors = {name: each.factors for name, each in split.items()}
                write_adapter(adapter, model.architecture, factors, conversion.force)
    return plan


def _plan(model: Model, split: Mapping[str, Split]) -> Plan:
    weights = tuple(split[w.name].base if w.name in split else w for w in model.weights)
    types = {weight.name: _type(weight.type, len(weight.shape)) for weight in weights}
    if split:
        return planned(replace(model, weights=weights), types, {})
    tensors = tuple(TensorPlan(w, types[w.name], types[w.name]) for w in weights)
    keys = model.metadata | {"general.file_type": u32(find_preset(TYPE)[1].file_type)}
    return plan_of(TYPE, keys, tensors, model.notes)


def _type(stored: GGMLType, n_dim: int) -> GGMLType:
    return GGMLType.F16 if stored is GGMLType.F32 and n_dim == 2 else stored
