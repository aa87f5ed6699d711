"""`csaq diff`: two GGUFs → what changed between them: keys, types, bytes, error per tensor."""

import json
from pathlib import Path

import click

from csaq_cli.comparison import Comparison, TensorChange, compare_files
from csaq_cli.loading import loading_line
from csaq_cli.locate import find_gguf
from csaq_cli.table import one_line, render_table, size_text
from csaq_runtime.gguf import open_gguf

EPILOG = """\b
Examples:
  csaq diff model-F16.gguf model-Q4_K_M.gguf   what quantization did to every tensor
  csaq diff old.gguf new.gguf --json           for scripts: "identical" is true or false
"""


@click.command(epilog=EPILOG)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def diff(a: Path, b: Path, as_json: bool, quiet: bool) -> None:
    """Show what changed from A to B (GGUFs, or folders with exactly one).

    The error of a tensor is the root mean square change of its weights relative to A's.
    """
    with open_gguf(find_gguf(a)) as one, open_gguf(find_gguf(b)) as other:
        progress = loading_line(quiet)
        found = compare_files(one, other, *([progress] if progress else []))
    if as_json:
        print(json.dumps(found.as_dict(), ensure_ascii=False, indent=1))
        return
    print("\n\n".join(part for part in (_keys(found), _tensors(found), _summary(found)) if part))


def _keys(found: Comparison) -> str:
    rows = [(one_line(c.key), _value(c.a), _value(c.b)) for c in found.keys]
    return render_table(("key", "A", "B"), rows) if rows else ""


def _value(value: object) -> str:
    text = "–" if value is None else one_line(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _tensors(found: Comparison) -> str:
    rows = [_row(change) for change in found.changed]
    rows += [(one_line(name), "", "–", "", "") for name in found.only_a]
    rows += [(one_line(name), "–", "", "", "") for name in found.only_b]
    return render_table(("tensor", "A", "B", "bytes", "error"), rows) if rows else ""


def _row(change: TensorChange) -> tuple[str, ...]:
    error = "" if change.error is None else f"{change.error:.3%}"
    n_bytes = f"{change.a_bytes:,} → {change.b_bytes:,}"
    return one_line(change.name), change.a_type, change.b_type, n_bytes, error


def _summary(found: Comparison) -> str:
    if found.identical:
        return "identical: the same metadata and tensors"
    counts = f"{len(found.changed)} tensors differ, {found.n_same} do not"
    if found.only_a or found.only_b:
        counts += f", {len(found.only_a)} only in A, {len(found.only_b)} only in B"
    sizes = f"{size_text(found.a_bytes)} → {size_text(found.b_bytes)}"
    return f"{len(found.keys)} keys differ; {counts}; {sizes}"
