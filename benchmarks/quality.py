"""Closeness to the original at equal file bytes: ours against llama-quantize, one run, one table.

    python benchmarks/quality.py MODEL --calib calib.txt --text valid.txt --text wiki.test.raw \
        --peer /path/to/llama.cpp/build/bin --out quality.json

The peer gets its own llama-imatrix over the same calibration text; each of our files is
made to the size of the peer's. KL divergence by llama-perplexity's protocol, in nats.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import Evaluation, evaluate, text_windows

PRESETS = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K")
TOLERANCE = 0.003
OPEN_AT_ONCE = 6
# The peer's statistics are cheaper than ours, so it gets more text.
PEER_WINDOWS = 3


@dataclass(frozen=True)
class Made:
    """A file, who made it for which preset, and the seconds it took."""

    preset: str
    maker: str
    path: Path
    seconds: float


def peer_imatrix(tools: Path, base: Path, calib: Path, out: Path, n_ctx: int, n: int) -> float:
    """Run llama-imatrix over the first `n` windows of the calibration text; seconds."""
    began = time.monotonic()
    shape = ("-c", n_ctx, "--chunks", n, "-ngl", 0, "-t", 1)
    run(tools / "llama-imatrix", "-m", base, "-f", calib, "-o", out, *shape)
    return time.monotonic() - began


def peer_file(tools: Path, base: Path, imatrix: Path | None, preset: str, folder: Path) -> Made:
    """Run llama-quantize."""
    maker = "llama-quantize" if imatrix is None else "llama-quantize + imatrix"
    out = folder / f"{preset}-{'plain' if imatrix is None else 'imatrix'}.gguf"
    guide = [] if imatrix is None else ["--imatrix", imatrix]
    began = time.monotonic()
    run(tools / "llama-quantize", *guide, base, out, preset)
    return Made(preset, maker, out, time.monotonic() - began)


def run(*command: object) -> None:
    """Run quietly; stop with its output if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


def our_file(model: Path, wanted: Made, calibrating: Calibrating, effort: str, work: Path) -> Made:
    """Ours, at most as large as the peer's file."""
    out = wanted.path.with_name(f"{wanted.preset}-csaq.gguf")
    size = wanted.path.stat().st_size
    request = Request(calibrating, Target(size=size), effort, work_dir=work)
    began = time.monotonic()
    convert_calibrated(Conversion(str(model), out, "Q4_K_M", force=True), request)
    assert size * (1 - TOLERANCE) <= out.stat().st_size <= size, (out, size)
    return Made(wanted.preset, "csaq", out, time.monotonic() - began)


def measure(made: list[Made], base: Path, text: Path, n_ctx: int, n_chunk: int) -> list[Evaluation]:
    """KL divergence of every file from `base` on `text`, a few files open at a time."""
    found = []
    for start in range(0, len(made), OPEN_AT_ONCE):
        with ExitStack() as stack:
            paths = [base, *(file.path for file in made[start : start + OPEN_AT_ONCE])]
            original, *engines = [
                stack.enter_context(Engine.open(path, n_ctx=n_ctx)) for path in paths
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
        "seconds": round(file.seconds, 1),
    }


def print_table(records: list[dict[str, object]]) -> None:
    """KL by preset and text, and by how much ours is below the peer with imatrix."""
    makers = ("llama-quantize", "llama-quantize + imatrix", "csaq")
    print(
        "| preset | bytes | text | "
        + " | ".join(makers)
        + " | change |\n|---|---|---|---|---|---|---|"
    )
    keys = dict.fromkeys((r["preset"], r["text"]) for r in records)
    for preset, text in keys:
        rows = {r["maker"]: r for r in records if (r["preset"], r["text"]) == (preset, text)}
        cells = [
            f"{rows[m]['kl']:.5f} ± {rows[m]['kl_error']:.5f}" if m in rows else "–" for m in makers
        ]
        change = float(str(rows["csaq"]["kl"])) / float(str(rows[makers[1]]["kl"])) - 1
        size = rows["csaq"]["bytes"]
        print(f"| {preset} | {size:,} | {text} | {' | '.join(cells)} | {change:+.0%} |")


def main() -> None:
    """Make all files, measure them, print the table and write the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--peer", type=Path, required=True, help="folder of llama.cpp's programs")
    parser.add_argument("--presets", nargs="+", default=PRESETS)
    parser.add_argument("--effort", default="normal")
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("quality.json"))
    parser.add_argument("--folder", type=Path, default=Path("quality-files"))
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    base, imatrix = args.folder / "F32.gguf", args.folder / "imatrix.gguf"
    convert(Conversion(str(args.model), base, "F32", force=True))
    n_window = PEER_WINDOWS * args.nsamples
    if not imatrix.exists():
        seconds = peer_imatrix(args.peer, base, args.calib, imatrix, args.seqlen, n_window)
        print(f"llama-imatrix: {seconds:.0f} s", file=sys.stderr)
    calibrating = Calibrating(str(args.calib), args.nsamples, args.seqlen, 0, "cpu")
    made = []
    for preset in args.presets:
        if not preset.startswith(("IQ1", "IQ2", "IQ3_XXS", "Q2_K_S")):
            made.append(peer_file(args.peer, base, None, preset, args.folder))
        guided = peer_file(args.peer, base, imatrix, preset, args.folder)
        ours = our_file(args.model, guided, calibrating, args.effort, args.folder / "work")
        made += [guided, ours]
        print(f"{preset}: {ours.seconds:.0f} s", file=sys.stderr)
    records = []
    for text in args.text:
        found = measure(made, base, text, args.seqlen, args.chunks)
        records += [record(f, text.name, e) for f, e in zip(made, found, strict=True)]
    args.out.write_text(json.dumps(records, indent=1) + "\n")
    print_table(records)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"\nour peak memory: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
