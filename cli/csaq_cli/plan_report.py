"""A conversion's plan for the user: a table, one JSON object, or two lines when it is done."""

import json
import sys
from pathlib import Path

from csaq_cli.table import render_table, size_text
from csaq_export.plan import Plan, TensorPlan


def print_plan(plan: Plan, out: Path) -> None:
    """Every tensor with shape, type and bytes, then the totals, on standard output."""
    rows = [_row(tensor) for tensor in plan.tensors]
    print(render_table(("tensor", "shape", "source", "type", "bytes"), rows))
    print(f"\n{out}: {_totals(plan)}")
    _print_notes(plan)


def print_json(plan: Plan, out: Path) -> None:
    """The same as one JSON object; sizes in bytes."""
    report = {
        "path": str(out),
        "type": plan.type,
        "file_bytes": plan.n_bytes,
        "parameters": plan.n_weight,
        "bpw": round(plan.bpw, 4),
        "notes": list(plan.notes),
        "tensors": [_tensor(tensor) for tensor in plan.tensors],
    }
    print(json.dumps(report, ensure_ascii=False, indent=1))


def print_outcome(plan: Plan, out: Path, quiet: bool) -> None:
    """The new file's path on standard output; what became of it on standard error."""
    if not quiet:
        _print_notes(plan)
        print(_totals(plan), file=sys.stderr)
    print(out)


def print_allocation(plan: Plan) -> None:
    """A line per layer with the type of each of its matrices, on standard error."""
    grid: dict[str, dict[str, str]] = {}
    for tensor in plan.tensors:
        if len(tensor.weight.shape) == 2:
            layer, _, kind = tensor.name.removesuffix(".weight").rpartition(".")
            grid.setdefault(layer, {})[kind] = tensor.type.name
    kinds = list(dict.fromkeys(kind for row in grid.values() for kind in row))
    rows = [(layer, *(row.get(kind, "") for kind in kinds)) for layer, row in grid.items()]
    print(render_table(("layer", *kinds), rows), file=sys.stderr)


def _print_notes(plan: Plan) -> None:
    for note in plan.notes:
        print(f"note: {note}", file=sys.stderr)


def _totals(plan: Plan) -> str:
    size = f"{size_text(plan.n_bytes)} ({plan.n_bytes:,} bytes)"
    return f"{plan.n_weight:,} weights, {size}, {plan.bpw:.2f} bits per weight ({plan.type})"


def _row(tensor: TensorPlan) -> tuple[str, ...]:
    shape = " × ".join(map(str, tensor.weight.shape))
    source, chosen = tensor.weight.type.name, tensor.type.name
    return tensor.name, shape, source, chosen, f"{tensor.n_bytes:,}"


def _tensor(tensor: TensorPlan) -> dict[str, object]:
    return {
        "name": tensor.name,
        "shape": list(tensor.weight.shape),
        "type": tensor.type.name,
        "wanted": tensor.wanted.name,
        "n_bytes": tensor.n_bytes,
    }
