"""Decoding speed of rows files beside stock files: a Markdown line per file.

    python -m benchmarks.rows_speed --files rows.gguf stock.gguf
    python -m benchmarks.rows_speed --shape 1.1B

`--shape` writes random files of a known model's shape: Q4_K_M, and rows of three types in every
matrix. Both decode in turn, so that they meet the same machine; bytes per second are what counts
where sizes differ a little. Medians, lowest … highest.
"""

import argparse
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.random_model import MODELS, write_random, write_random_rows
from csaq_cli.bench_engine import open_for, rate
from csaq_cli.bench_trial import Trial
from csaq_runtime.formats import GGMLType

TIERS = ((8, GGMLType.Q8_0, 0.04), (6, GGMLType.Q6_K, 0.16), (4, GGMLType.Q4_K, 0.8))


def main() -> None:
    """Print the table."""
    args = arguments()
    with tempfile.TemporaryDirectory() as folder:
        compare(args.files or random_files(args.shape, Path(folder)), args)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--files", nargs="*", type=Path)
    chosen.add_argument("--shape", choices=list(MODELS))
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-n", "--n-gen", type=int, default=16)
    parser.add_argument("-r", "--repetitions", type=int, default=9)
    return parser.parse_args()


def random_files(shape: str, folder: Path) -> list[Path]:
    """Rows, and a stock file."""
    rows, stock = folder / f"{shape}-rows.gguf", folder / f"{shape}-Q4_K_M.gguf"
    write_random_rows(rows, MODELS[shape], "Q4_K_M", TIERS)
    write_random(stock, MODELS[shape], "Q4_K_M")
    return [rows, stock]


def compare(files: list[Path], args: argparse.Namespace) -> None:
    """Let all decode in turn."""
    trial = Trial(0, args.n_gen, 0, args.threads)
    with ExitStack() as stack:
        engines = [stack.enter_context(open_for(path, [trial], "f16")) for path in files]
        rounds = [[rate(engine, trial) for engine in engines] for _ in range(args.repetitions)]
    print("| file | bytes | tokens/s | GB/s, ratio to the last |")
    print("|---|---|---|---|")
    last = files[-1].stat().st_size * statistics.median(each[-1] for each in rounds)
    for path, rates in zip(files, zip(*rounds, strict=True), strict=True):
        size, middle = path.stat().st_size, statistics.median(rates)
        spread = f"{middle:.1f} ({min(rates):.1f} … {max(rates):.1f})"
        read = f"{size * middle / 1e9:.2f}, {size * middle / last:.2f}"
        print(f"| {path.name} | {size:,} | {spread} | {read} |", flush=True)


if __name__ == "__main__":
    main()
