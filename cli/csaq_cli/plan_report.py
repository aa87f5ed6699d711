"""A conversion's plan for the user: a table, one JSON object, or two lines when it is done."""

import json
import sys
from pathlib import Path

from csaq_cli.table import render_table, size_text
from csaq_export.estimate.stage import Estimate
from csaq_export.plan import Plan, TensorPlan

UNDECIDED = "the types depend on the calibration: with --work-dir they are known after one run"


def print_plan(plan: Plan, out: Path) -> None:
    """Every tensor with shape, type and bytes, then the totals, on standard output."""
    rows = [_row(tensor) for tensor in plan.tensors]
    print(render_table(("tensor", "shape", "source", "type", "bytes"), rows))
    print(f"\n{out}: {_totals(plan)}")
    _print_notes(plan)


def print_forecast(plan: Plan | None, estimate: Estimate, out: Path) -> None:
    """The plan if there is one, and time, memory and disk of every stage."""
    if plan is None:
        print(f"note: {UNDECIDED}", file=sys.stderr)
    else:
        print_plan(plan, out)
        print()
    rows = [
        (stage.name, _duration(stage.seconds), size_text(stage.memory), size_text(stage.disk))
        for stage in estimate.stages
    ]
    total = ("in all", estimate.seconds, estimate.memory, estimate.disk)
    rows.append((total[0], _duration(total[1]), size_text(total[2]), size_text(total[3])))
    memory = "RAM" if estimate.device == "cpu" else "GPU memory"
    print(render_table((f"stage on {estimate.device}", "time", memory, "disk"), rows))


def print_forecast_json(plan: Plan | None, estimate: Estimate, out: Path) -> None:
    """The same as one JSON object; seconds and bytes."""
    report = {"path": str(out), "notes": [UNDECIDED]} if plan is None else _report(plan, out)
    stages = [
        {
            "name": stage.name,
            "seconds": round(stage.seconds, 3),
            "memory_bytes": stage.memory,
            "disk_bytes": stage.disk,
        }
        for stage in estimate.stages
    ]
    figures = {
        "device": estimate.device,
        "seconds": round(estimate.seconds, 3),
        "memory_bytes": estimate.memory,
        "disk_bytes": estimate.disk,
        "stages": stages,
    }
    print(json.dumps(report | {"estimate": figures}, ensure_ascii=False, indent=1))


def _duration(seconds: float) -> str:
    """`1:02:03` from an hour up, else `2:03`, with tenths below a minute."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def print_json(plan: Plan, out: Path) -> None:
    """The plan as one JSON object; sizes in bytes."""
    print(json.dumps(_report(plan, out), ensure_ascii=False, indent=1))


def _report(plan: Plan, out: Path) -> dict[str, object]:
    return {
        "path": str(out),
        "type": plan.type,
        "file_bytes": plan.n_bytes,
        "parameters": plan.n_weight,
        "bpw": round(plan.bpw, 4),
        "notes": list(plan.notes),
        "tensors": [_tensor(tensor) for tensor in plan.tensors],
    }


def print_outcome(plan: Plan, out: Path, quiet: bool) -> None:
    """The new file's path on standard output; what became of it on standard error."""
    if not quiet:
        _print_notes(plan)
        print(_totals(plan), file=sys.stderr)
    print(out)


def print_made(plan: Plan, out: Path, as_json: bool, quiet: bool) -> None:
    """What a method wrote: one JSON object, or path and totals."""
    if as_json:
        print_json(plan, out)
    else:
        print_outcome(plan, out, quiet)


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
