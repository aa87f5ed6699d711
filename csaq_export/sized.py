"""Conversion to a size from the weights alone, by an imatrix file if there is one.

For sources that do not run in torch (a GGUF) and for users who have an imatrix but no text.
"""

from collections.abc import Callable
from dataclasses import replace

from csaq_export.budget.allocate import target_bytes
from csaq_export.budget.by_weights import plan_by_weights
from csaq_export.budget.target import Target
from csaq_export.imatrix import Importance, read_importance
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.model import Model
from csaq_export.pipeline import Conversion, Progress, write_plan
from csaq_export.plan import Plan
from csaq_export.source import open_model

NOTE = "no --calib: types are a preset's or better, chosen by the weights' own errors"


def convert_sized(
    conversion: Conversion, target: Target, progress: Callable[[Progress], None]
) -> Plan:
    """Write the GGUF and return its plan; raises UsageError, ModelError or ResourceError."""
    with open_model(conversion.source, conversion.revision) as model:
        importance = read_importance(conversion.imatrix, model)
        plan = _plan(model, conversion, target, importance)
        write_plan(plan, conversion, importance, progress)
    return plan


def plan_sized(conversion: Conversion, target: Target) -> Plan:
    """What `convert_sized` would write; reads a sample of every matrix."""
    with open_model(conversion.source, conversion.revision) as model:
        return _plan(model, conversion, target, read_importance(conversion.imatrix, model))


def _plan(model: Model, conversion: Conversion, target: Target, importance: Importance) -> Plan:
    limit = target_bytes(model, target)
    keys = _metadata(target) | importance.metadata
    plan = plan_by_weights(model, limit, conversion.overrides, importance.columns, keys)
    return replace(plan, notes=(*plan.notes, *importance.notes, NOTE))


def _metadata(target: Target) -> Metadata:
    keys = {
        "csaq.version": u32(1),
        "csaq.layout": text("stock"),
        "csaq.method": text("weights"),
    }
    if target.bpw is not None:
        keys["csaq.target_bpw"] = f32(target.bpw)
    return keys
