"""Closeness to the original at equal file bytes: ours against llama-quantize, one run, one table.

    python benchmarks/calibration_text.py calib.txt
    python -m benchmarks.quality MODEL --calib calib.txt --text valid.txt --text wiki.test.raw \
        --peer /path/to/llama.cpp/build/bin --out quality.json

The peer gets its own llama-imatrix over the same calibration text; each of our files is
made to the size of the peer's. `--rival NAME=FILE` adds any other GGUF of the model (such
as AutoRound's, see benchmarks/autoround.py), which ours is made to the size of as well.
KL divergence by llama-perplexity's protocol, in nats.
"""

import argparse
import json
import resource
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.conversion_parser import conversion_parser
from benchmarks.peer_files import Made, make_imatrix, needs_imatrix, quantized
from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import Evaluation, evaluate, text_windows

PRESETS = (
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "Q2_K", "IQ3_XXS", "Q3_K_S", "IQ3_S", "IQ3_M",
    "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K",
)  # fmt: skip
OURS = "csaq"
TOLERANCE = 0.003
OPEN_AT_ONCE = 6
# The peer's statistics are cheaper than ours, so it gets more text.
PEER_WINDOWS = 3


def our_file(model: Path, wanted: Made, calibrating: Calibrating, effort: str, work: Path) -> Made:
    """Ours, at most as large as the other's file."""
    out = wanted.path.with_name(f"{wanted.preset}-csaq.gguf")
    size = wanted.path.stat().st_size
    request = Request(calibrating, Target(size=size), effort, work_dir=work)
    began = time.process_time()
    convert_calibrated(Conversion(str(model), out, "Q4_K_M", force=True), request)
    assert size * (1 - TOLERANCE) <= out.stat().st_size <= size, (out, size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return Made(wanted.preset, OURS, out, time.process_time() - began, peak)


def measure(made: list[Made], base: Path, text: Path, n_ctx: int, n_chunk: int) -> list[Evaluation]:
    """KL divergence of every file from `base` on `text`, a few files open at a time."""
    found = []
    for start in range(0, len(made), OPEN_AT_ONCE):
        with ExitStack() as stack:
            paths = [base, *(file.path for file in made[start : start + OPEN_AT_ONCE])]
            original, *engines = [
                stack.enter_context(Engine.open(path, n_ctx=n_ctx, n_threads=1)) for path in paths
            ]
            windows = text_windows(original, text.read_text(encoding="utf-8"), n_ctx, n_chunk)
            found += evaluate(engines, windows, original)
    return found


def record(file: Made, name: str, evaluation: Evaluation) -> dict[str, object]:
    """One line of the result."""
    divergence = evaluation.divergence
    assert divergence is not None
    return {
        "preset": file.preset,
        "maker": file.maker,
        "text": name,
        "bytes": file.path.stat().st_size,
        "kl": divergence.mean.value,
        "kl_error": divergence.mean.error,
        "kl_p99": divergence.p99,
        "same_top": divergence.same_top.value,
        "perplexity": evaluation.perplexity.value,
        "cpu_seconds": round(file.seconds, 1),
        "peak_mib": round(file.peak_mib),
    }


def print_table(records: list[dict[str, object]]) -> None:
    """KL (± 1.96 standard errors) by preset and text, ours against the best of the others."""
    makers = list(dict.fromkeys(str(r["maker"]) for r in records if r["maker"] != OURS))
    print(f"| size of | bytes | text | {' | '.join(makers)} | csaq | change | CPU s |")
    print("|---" * (len(makers) + 6) + "|")
    for preset, text in dict.fromkeys((r["preset"], r["text"]) for r in records):
        rows = {str(r["maker"]): r for r in records if (r["preset"], r["text"]) == (preset, text)}
        cells = [interval(rows[maker]) if maker in rows else "–" for maker in [*makers, OURS]]
        others = [float(str(rows[maker]["kl"])) for maker in makers if maker in rows]
        change = float(str(rows[OURS]["kl"])) / min(others) - 1
        size, seconds = rows[OURS]["bytes"], rows[OURS]["cpu_seconds"]
        print(f"| {preset} | {size:,} | {text} | {' | '.join(cells)} | {change:+.0%} | {seconds} |")


def interval(row: dict[str, object]) -> str:
    """A 95 % interval."""
    return f"{row['kl']:.5f} ± {1.96 * float(str(row['kl_error'])):.5f}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = conversion_parser(__doc__, PRESETS, 40)
    parser.add_argument("--peer", type=Path, required=True, help="folder of llama.cpp's programs")
    parser.add_argument("--rival", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    parser.add_argument("--folder", type=Path, default=Path("quality-files"))
    return parser.parse_args()


def make_files(args: argparse.Namespace, base: Path) -> list[Made]:
    """The peers' files and ours of their sizes."""
    imatrix = args.folder / "imatrix.gguf"
    if not imatrix.exists():
        n_window = PEER_WINDOWS * args.nsamples
        found = make_imatrix(args.peer, base, args.calib, imatrix, args.seqlen, n_window)
        print(
            f"llama-imatrix: {found.seconds:.0f} CPU s, {found.peak_mib:.0f} MiB", file=sys.stderr
        )
    calibrating = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    made: list[Made] = []
    for preset in args.presets:
        plain = (
            [] if needs_imatrix(preset) else [quantized(args.peer, base, None, preset, args.folder)]
        )
        made += [*plain, quantized(args.peer, base, imatrix, preset, args.folder)]
        made.append(our_file(args.model, made[-1], calibrating, args.effort, args.folder / "work"))
        print(f"{preset}: {made[-1].seconds:.0f} CPU s", file=sys.stderr)
    for name, path in (pair.split("=", 1) for pair in args.rival):
        rival = Made(name, "rival", Path(path), 0.0, 0.0)
        ours = our_file(args.model, rival, calibrating, args.effort, args.folder / "work")
        made += [rival, ours]
    return made


def main() -> None:
    """Make all files, measure them, print the table and write the records."""
    args = arguments()
    args.folder.mkdir(exist_ok=True, parents=True)
    base = args.folder / "F32.gguf"
    convert(Conversion(str(args.model), base, "F32", force=True))
    made = make_files(args, base)
    records = []
    for text in args.text:
        found = measure(made, base, text, args.seqlen, args.chunks)
        records += [record(f, text.name, e) for f, e in zip(made, found, strict=True)]
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    print_table(records)
    print(f"\nour peak memory: {max(f.peak_mib for f in made if f.maker == OURS):.0f} MiB")


if __name__ == "__main__":
    main()
