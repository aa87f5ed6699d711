"""`csaq info`: a GGUF's header → architecture, sizes, types, metadata, memory. Reads no weights."""

import json
from pathlib import Path

import click

from csaq_cli.inventory import Inventory, take_inventory
from csaq_cli.locate import find_gguf
from csaq_cli.rows_inventory import sizes_text
from csaq_cli.table import one_line, render_table, size_text

EPILOG = """\b
Examples:
  csaq info model.gguf                     architecture, sizes, types, memory
  csaq info model.gguf --metadata          every key, long values shortened
  csaq info model.gguf --tensors --json    every tensor, for programs
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
@click.option("--metadata", is_flag=True, help="List every metadata key.")
def info(file: Path, as_json: bool, tensors: bool, metadata: bool) -> None:
    """Show what FILE (a GGUF, or a folder with exactly one) holds."""
    inventory = take_inventory(find_gguf(file))
    if as_json:
        print(json.dumps(inventory.as_dict(tensors, metadata), ensure_ascii=False, indent=1))
        return
    print(_summary(inventory))
    print("\n" + _types(inventory))
    if inventory.tiers:
        print("\n" + _tiers(inventory))
    if tensors:
        print("\n" + _tensors(inventory))
    if metadata:
        print("\n" + _metadata(inventory))


def _summary(inventory: Inventory) -> str:
    lines = [
        ("file", f"{inventory.path} (GGUF v{inventory.version})"),
        ("model", one_line(inventory.name or "(no name)")),
        ("architecture", one_line(inventory.architecture)),
        ("parameters", f"{inventory.n_weight:,}"),
        ("size", f"{size_text(inventory.file_bytes)}, {inventory.bpw:.2f} bits per weight"),
        ("context", f"{inventory.n_ctx:,} tokens"),
        ("memory", _memory(inventory)),
    ]
    if inventory.clique_sizes:
        lines.append(("cliques", sizes_text(inventory.clique_sizes)))
    return "\n".join(f"{label:<13} {text}" for label, text in lines)


def _memory(inventory: Inventory) -> str:
    if inventory.memory_bytes is None:
        return "unknown: csaq run does not support this file"
    return f"about {size_text(inventory.memory_bytes)} at {inventory.memory_n_ctx:,} tokens"


def _types(inventory: Inventory) -> str:
    rows = [
        (t.type, f"{t.n_tensor}", f"{t.n_weight:,}", size_text(t.n_bytes)) for t in inventory.types
    ]
    return render_table(("type", "tensors", "weights", "size"), rows)


def _tiers(inventory: Inventory) -> str:
    rows = [
        (
            f"b{t.tier}" if t.tier else "whole",
            t.type,
            f"{t.n_matrix}",
            f"{t.n_row:,}",
            f"{t.n_weight:,}",
            size_text(t.n_bytes),
        )
        for t in inventory.tiers
    ]
    return render_table(("rows of", "type", "matrices", "rows", "weights", "size"), rows)


def _tensors(inventory: Inventory) -> str:
    rows = [
        (t.name, t.type.name, " × ".join(map(str, t.shape)), size_text(t.n_bytes))
        for t in inventory.tensors
    ]
    return render_table(("tensor", "type", "shape", "size"), rows)


def _metadata(inventory: Inventory) -> str:
    return "\n".join(f"{one_line(k)} = {one_line(v)}" for k, v in inventory.metadata.items())
