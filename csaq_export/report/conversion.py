"""A conversion's plan → its report: sizes, the type of every matrix as picture and table."""

from collections import defaultdict
from math import prod
from pathlib import Path
from typing import Any

from csaq_export.plan import Plan, TensorPlan
from csaq_export.report.grid import Cell, draw_grid
from csaq_export.report.page import render_page, render_rows
from csaq_export.type_choice import Shape, is_quantizable
from csaq_runtime.formats import LAYOUTS, GGMLType


def conversion_page(plan: Plan, out: Path) -> str:
    """One HTML page about the file `out`."""
    matrices = [t for t in plan.tensors if is_quantizable(Shape(t.name, t.weight.shape))]
    grid = draw_grid({t.name: Cell(LAYOUTS[t.type].bpw, t.type.name) for t in matrices})
    header = ("tensor", "shape", "type", "bits per weight", "bytes")
    rows = [_tensor_row(tensor) for tensor in plan.tensors]
    sections = [
        ("Sizes", _summary(plan)),
        ("Type of each matrix", grid + "<p>Darker means more bits per weight.</p>"),
        ("By type", render_rows(("type", "tensors", "weights", "bytes"), _by_type(plan))),
        ("Tensors", render_rows(header, rows)),
    ]
    return render_page(f"{out.name}: conversion report", sections)


def conversion_figures(plan: Plan, out: Path) -> dict[str, Any]:
    """The same for programs; sizes in bytes."""
    return {
        "path": str(out),
        "type": plan.type,
        "file_bytes": plan.n_bytes,
        "parameters": plan.n_weight,
        "bpw": plan.bpw,
        "notes": list(plan.notes),
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.weight.shape),
                "type": tensor.type.name,
                "n_bytes": tensor.n_bytes,
            }
            for tensor in plan.tensors
        ],
    }


def _summary(plan: Plan) -> str:
    front = plan.n_bytes - sum(tensor.n_bytes for tensor in plan.tensors)
    rows = [
        ("file", f"{plan.n_bytes:,} bytes"),
        ("of these metadata, index and padding", f"{front:,} bytes"),
        ("weights", f"{plan.n_weight:,}"),
        ("bits per weight, whole file", f"{plan.bpw:.3f}"),
        *(("note", note) for note in plan.notes),
    ]
    return render_rows(("", ""), rows)


def _by_type(plan: Plan) -> list[tuple[str, ...]]:
    found: dict[GGMLType, list[TensorPlan]] = defaultdict(list)
    for tensor in plan.tensors:
        found[tensor.type].append(tensor)
    return [
        (
            kind.name,
            f"{len(tensors)}",
            f"{sum(prod(t.weight.shape) for t in tensors):,}",
            f"{sum(t.n_bytes for t in tensors):,}",
        )
        for kind, tensors in sorted(found.items(), key=lambda pair: -LAYOUTS[pair[0]].bpw)
    ]


def _tensor_row(tensor: TensorPlan) -> tuple[str, ...]:
    shape = " × ".join(map(str, tensor.weight.shape))
    bits = f"{LAYOUTS[tensor.type].bpw:.4g}"
    return tensor.name, shape, tensor.type.name, bits, f"{tensor.n_bytes:,}"
