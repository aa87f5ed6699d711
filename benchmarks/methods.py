"""The published methods on one model, at equal bytes, on the task and off it.

`python -m benchmarks.methods MODEL --task TEXT --task-eval TEXT --other TEXT [--chunks 12]`

prints a table: bits per weight, CPU seconds of the conversion, divergence from F16 and perplexity
on both texts. The rival of TaCQ is error feedback in types that fill the same bytes (`csaq convert
--size`), rounded by the same text, with the embedding in the type that it has in TaCQ's file; the
ratio 0 is TaCQ's base alone. Every ratio but the first reuses the scores in the work dir. If the
task is a file of questions, `--calib` is their text, by which all are rounded.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from time import process_time

from csaq_export.budget.target import Target
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating
from csaq_export.methods.session import OUTSIDE
from csaq_export.methods.tacq import TacqRequest, convert_tacq
from csaq_export.methods.tiers import Tiers, TiersRequest, convert_tiers
from csaq_export.overrides import Override
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import evaluate, text_windows

# Name, file, bits per weight and CPU seconds.
Made = tuple[str, Path, float, float]
N_CTX = 512
RATIOS = (0.0, 0.0035, 0.02)
TIERS = (None, 6.0, 7.0, 8.0)
EMBEDDING = Override(re.compile("token_embd"), OUTSIDE)


def main() -> None:
    """Convert, measure, print."""
    options = read_options()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        base = folder / "F16.gguf"
        convert(Conversion(options.model, base, "F16"))
        print("| file | bpw | CPU s | task KL | task PPL | other KL | other PPL |")
        print("|---" * 7 + "|")
        files = chain(tacq_files(options, folder), tiers_files(options, folder))
        for name, path, bpw, seconds in files:
            cells = [f"{bpw:.3f}", f"{seconds:.0f}"]
            for text in (options.task_eval, options.other):
                kl, perplexity = measured(path, base, text, options.chunks)
                cells += [f"{kl:.4f}", f"{perplexity:.2f}"]
            print(f"| {' | '.join((name, *cells))} |", flush=True)


def read_options() -> argparse.Namespace:
    """Model and texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for name in ("--task", "--task-eval", "--other"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--calib", type=Path, help="what all are rounded by; the task")
    parser.add_argument("--bits", type=int, nargs="*", default=(2, 3))
    parser.add_argument("--ratios", type=float, nargs="*", default=RATIOS)
    parser.add_argument("--tiers", type=float, nargs="*", default=TIERS)
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--nsamples", type=int, default=48)
    return parser.parse_args()


def tacq_files(options: argparse.Namespace, folder: Path) -> Iterator[Made]:
    """TaCQ at several ratios, and types of the same size."""
    calibrating = Calibrating(str(options.calib or options.task), options.nsamples, N_CTX, 0, "cpu")
    for bits in options.bits:
        for ratio in options.ratios:
            out = folder / f"tacq-{bits}-{ratio}.gguf"
            wanted = TacqRequest(calibrating, options.task, bits, ratio, folder / "work")
            start = process_time()
            plan = convert_tacq(Conversion(options.model, out, ""), wanted, quiet)
            yield f"TaCQ {bits} bits, ratio {ratio}", out, plan.bpw, process_time() - start
            if ratio == 0.0:
                continue
            same = folder / f"same-{bits}-{ratio}.gguf"
            rival = Request(
                calibrating, Target(size=plan.n_bytes), "fast", work_dir=folder / "work"
            )
            conversion = Conversion(options.model, same, "Q4_K_M", overrides=(EMBEDDING,))
            start = process_time()
            plan = convert_calibrated(conversion, rival)
            name = f"error feedback, bytes of {bits} bits, {ratio}"
            yield name, same, plan.bpw, process_time() - start


def tiers_files(options: argparse.Namespace, folder: Path) -> Iterator[Made]:
    """The article's shares, and sizes asked for."""
    calibrating = Calibrating(str(options.calib or options.task), options.nsamples, N_CTX, 0, "cpu")
    for bpw in options.tiers:
        out = folder / f"tiers-{bpw}.gguf"
        wanted = TiersRequest(calibrating, Tiers(), bpw, folder / "tiers")
        start = process_time()
        plan = convert_tiers(Conversion(options.model, out, ""), wanted, quiet)
        seconds = process_time() - start
        yield f"tiers, asked for {bpw or Tiers().text()}", out, plan.bpw, seconds


def measured(path: Path, base: Path, text: Path, n_chunk: int) -> tuple[float, float]:
    """Divergence from F16 and perplexity."""
    with Engine.open(path, n_ctx=N_CTX) as engine, Engine.open(base, n_ctx=N_CTX) as original:
        windows = text_windows(engine, text.read_text(encoding="utf-8"), N_CTX, n_chunk)
        (found,) = evaluate([engine], windows, original)
    assert found.divergence is not None
    return found.divergence.mean.value, found.perplexity.value


def quiet(stage: str, done: int, total: int) -> None:
    """Report nothing."""


if __name__ == "__main__":
    main()
