"""Logits of `csaq run` against torch's own of the same weights and codes: a Markdown line per file.

    python -m benchmarks.logits MODEL --files rows.gguf tiers.gguf tacq.gguf serq.gguf

Differences are the largest of all random texts, of the logits' spread. "As they fall": the torch
model rounds inputs as the kernels do, in float64. "Settled": codes within 3e-4 of a rounding
boundary may fall on its other side (`tests/export/ties.py`). "Float inputs": nothing but the
weights is rounded, so this is what 8 bits of activations cost.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from csaq_runtime.engine import Engine
from tests.export.ties import CLOSE, Logits, Rounding, pass_of, settled
from tests.export.torch_reference import load_reference


def main() -> None:
    """Print the table."""
    args = arguments()
    torch.set_num_threads(1)
    print("| file | texts, with a code on the other side | as they fall | settled | float inputs |")
    print("|---|---|---|---|---|")
    for path in args.files:
        print(f"| {path.name} | {' | '.join(compared(args, path))} |", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--files", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=8)
    return parser.parse_args()


def compared(args: argparse.Namespace, path: Path) -> list[str]:
    """The cells of a file."""
    with Engine.open(path, cache_type="f32", n_threads=1) as engine:
        size = (args.texts, args.tokens)
        texts = np.random.default_rng(0).integers(0, engine.logits([0]).shape[-1], size).tolist()
        found = [engine.logits(ids) for ids in texts]
    rounding = Rounding()
    run = pass_of(load_reference(args.model, path, rounding).model, rounding)
    fallen = [off(run(ids, ())[0], logits) for ids, logits in zip(texts, found, strict=True)]
    worst, _ = zip(*map(partial(settled, run), texts, found), strict=True)
    with torch.no_grad():
        exact = load_reference(args.model, path).model(torch.tensor(texts)).logits.numpy()
    of_floats = max(map(off, exact, found))
    n_moved = sum(each >= CLOSE for each in fallen)
    figures = (f"{each:.1e}" for each in (max(fallen), max(worst), of_floats))
    return [f"{args.texts}, {n_moved}", *figures]


def off(found: Logits, expected: Logits) -> float:
    """The largest difference, of the spread."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


if __name__ == "__main__":
    main()
