"""From a Hugging Face model to a GGUF file: the whole story.

open_model   folder, hub name or GGUF → Model (config, tokenizer; weights unread)
plan_model   Model + type → Plan (type and bytes of every tensor)
convert      rows → float32 → packed blocks → file
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.imatrix import Importance, read_importance
from csaq_export.memory import check_streaming
from csaq_export.model import Model
from csaq_export.overrides import Override, overridden
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.quantize import encode
from csaq_export.source import open_model
from csaq_export.write_gguf import front_matter, new_file, write_rows
from csaq_runtime.errors import ModelError


@dataclass(frozen=True)
class Conversion:
    """What the user asks for.

    `source`: a folder, a .gguf file or a hub name (`revision`: its branch, tag or
    commit); `type`: a preset such as Q4_K_M; `force`: replace `out` if it exists;
    `imatrix`: a llama.cpp imatrix file that says which columns matter; `overrides`
    fix types by tensor name.
    """

    source: str
    out: Path
    type: str
    revision: str | None = None
    force: bool = False
    imatrix: Path | None = None
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a conversion is: the tensor begun, and bytes of the file written before it."""

    tensor: TensorPlan
    done_bytes: int
    total_bytes: int


def plan(conversion: Conversion) -> Plan:
    """What `convert` would write, from headers alone; raises the same errors about them."""
    with open_model(conversion.source, conversion.revision) as model:
        return _plan(model, conversion, read_importance(conversion.imatrix, model))


def convert(
    conversion: Conversion, progress: Callable[[Progress], None] = lambda progress: None
) -> Plan:
    """Write the GGUF and return its plan.

    Raises UsageError, ModelError or ResourceError, and then leaves nothing behind.
    """
    with open_model(conversion.source, conversion.revision) as model:
        importance = read_importance(conversion.imatrix, model)
        file_plan = _plan(model, conversion, importance)
        write_plan(file_plan, conversion, importance, progress)
    return file_plan


def write_plan(
    file_plan: Plan,
    conversion: Conversion,
    importance: Importance,
    progress: Callable[[Progress], None],
) -> None:
    """Encode and write every tensor; raises what `convert` raises."""
    check_streaming(conversion.source, file_plan)
    with new_file(conversion.out, file_plan.n_bytes, conversion.force) as file:
        file.write(front_matter(file_plan.metadata, file_plan.tensors))
        for tensor in file_plan.tensors:
            progress(Progress(tensor, file.tell(), file_plan.n_bytes))
            rows = packed_rows(tensor, importance.columns.get(tensor.name))
            write_rows(file, rows, tensor.n_bytes)


def _plan(model: Model, conversion: Conversion, importance: Importance) -> Plan:
    found = plan_model(model, conversion.type, conversion.imatrix is not None)
    found = overridden(model, found, conversion.overrides)
    found = found.with_metadata(importance.metadata)
    return replace(found, notes=(*found.notes, *importance.notes))


def packed_rows(
    tensor: TensorPlan, importance: Tensor | None = None
) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes, uint8 [n, row_bytes] per chunk; ModelError naming it if it is unfit.

    `importance`: float32 [n_col].
    """
    weight = tensor.weight
    for rows in weight.chunks():
        values = weight.float32(rows)
        if tensor.type == weight.type:
            yield weight.read(rows.start, rows.stop)
            continue
        try:
            yield encode(values, tensor.type, importance).numpy()
        except ModelError as error:
            raise ModelError(f"{tensor.name}: {error}", error.hint) from error
