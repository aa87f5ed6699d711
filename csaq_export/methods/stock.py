"""A rows file → a stock file of the same weights, which llama.cpp and others load.

A matrix of one type and nothing beside it is copied byte for byte. Any other becomes F16: no
smaller type holds rows of several types without another rounding, and F16 is off by 2⁻¹¹ of a
weight at most, far less than the types themselves. For a smaller file convert the result again.
"""

from collections.abc import Callable

from csaq_export.imatrix import read_importance
from csaq_export.metadata import u32
from csaq_export.pipeline import Conversion, Progress, write_plan
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.presets import find_preset
from csaq_export.source import open_model
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from csaq_runtime.rows.names import is_rows

TYPE = "F16"


def convert_stock(conversion: Conversion, progress: Callable[[Progress], None]) -> Plan:
    """Write the file and return its plan; UsageError for a source of another layout."""
    with open_gguf(conversion.source) as file:
        if not is_rows(file.text("general.architecture")):
            raise UsageError(
                f"{conversion.source}: has the stock layout already", "leave --layout out"
            )
    with open_model(conversion.source) as model:
        tensors = tuple(
            TensorPlan(weight, kind, kind)
            for weight in model.weights
            for kind in [_type(weight.type, len(weight.shape))]
        )
        keys = model.metadata | {"general.file_type": u32(find_preset(TYPE)[1].file_type)}
        plan = plan_of(TYPE, keys, tensors, model.notes)
        write_plan(plan, conversion, read_importance(None, model), progress)
    return plan


def _type(stored: GGMLType, n_dim: int) -> GGMLType:
    return GGMLType.F16 if stored is GGMLType.F32 and n_dim == 2 else stored
