"""Whole models against llama.cpp: `python benchmarks/speed.py --vs PATH/llama-bench [--quick]`.

Writes random files of known shapes and types to a temporary folder, one after the other. Per
file: tokens per second of prompts and generation, ours and llama-bench's in turn (the better of
its default and `--repack 0`), the share of the read bandwidth measured in the same minute, the
time of 4- and 8-token steps relative to one, and resident memory. Medians; the machine's load
is printed with every file.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "cli"), str(ROOT)]

from benchmarks.kernels import Work, make_work, quartiles, reader  # noqa: E402
from benchmarks.random_model import MODELS, write_random  # noqa: E402
from csaq_cli.bench import Contest, measured  # noqa: E402
from csaq_cli.bench_report import Outcome  # noqa: E402
from csaq_cli.bench_trial import Trial, trials  # noqa: E402
from csaq_runtime.engine import Engine  # noqa: E402
from csaq_runtime.formats import GGMLType  # noqa: E402

TYPES = ("Q4_K_M", "Q4_0", "Q6_K", "Q8_0", "F16", "BF16")
VERIFY_TOKENS = (4, 8)
N_VERIFY = 9


def main() -> None:
    """Print a Markdown table row per file and test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vs", type=Path, help="a llama-bench")
    parser.add_argument("--quick", action="store_true", help="small models, few repetitions")
    parser.add_argument("--models", nargs="*", choices=list(MODELS))
    parser.add_argument("--types", nargs="*", default=None)
    parser.add_argument("--threads", nargs="*", type=int)
    parser.add_argument("--depths", nargs="*", type=int)
    parser.add_argument("-r", "--repetitions", type=int)
    parser.add_argument("--folder", type=Path, help="keep the random files here for the next run")
    arguments = parser.parse_args()
    names = arguments.models or (["0.5B", "1.1B"] if arguments.quick else list(MODELS))
    types = arguments.types or (TYPES[:4] if arguments.quick else TYPES)
    print("| file | threads | test | ours t/s | llama.cpp t/s | ratio | of read limit | load |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        for preset in types:
            with random_file(name, preset, arguments.folder) as path:
                report(path, arguments)


@contextmanager
def random_file(name: str, preset: str, folder: Path | None) -> Iterator[Path]:
    """A file of the shape and type: of `folder`, written there once, or a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / f"{name}-{preset}.gguf"
        if not path.exists():
            write_random(path, MODELS[name], preset)
        yield path


def report(path: Path, arguments: argparse.Namespace) -> None:
    """Print all rows of one file."""
    threads = arguments.threads or ([2] if arguments.quick else [1, 2])
    depths = arguments.depths or ([0] if arguments.quick else [0, 4096, 16384])
    n_prompt, n_gen = (256, 32) if arguments.quick else (512, 128)
    n_repeat = arguments.repetitions or (3 if arguments.quick else 5)
    chosen = list(trials((n_prompt,), (n_gen,), depths, threads))
    read = {n: read_bandwidth(n) for n in threads}
    for trial in chosen:
        (outcome,) = measured(Contest(path, [trial], n_repeat, "f16", arguments.vs))
        print(f"| {path.stem} | {row(outcome, path, read[trial.n_threads])} |", flush=True)
    for n_thread in threads:
        print(f"| {path.stem} | {n_thread} | {verify(path, n_thread)} |", flush=True)


def row(outcome: Outcome, path: Path, read: float) -> str:
    """Cells of one test; decoding reads the whole file once per token (embedding aside)."""
    trial, ours = outcome.trial, statistics.median(outcome.samples)
    share = f"{ours * path.stat().st_size / read:.0%}" if is_plain_decoding(trial) else ""
    peer = spread(outcome.peer_samples) if outcome.peer_samples else ""
    ratio = f"{outcome.ratio:.2f}" if outcome.ratio else ""
    load = f"{os.getloadavg()[0]:.1f}"
    cells = (str(trial.n_threads), trial.label, spread(outcome.samples), peer, ratio, share, load)
    return " | ".join(cells)


def is_plain_decoding(trial: Trial) -> bool:
    """Whether weights are nearly all that a token reads."""
    return bool(trial.n_gen) and not trial.n_depth


def spread(samples: Sequence[float]) -> str:
    """Median, lowest … highest."""
    return f"{statistics.median(samples):.1f} ({min(samples):.1f} … {max(samples):.1f})"


def read_bandwidth(n_thread: int) -> float:
    """Bytes per second that `n_thread` threads read: the upper quartile of 7."""
    work: Work = make_work(GGMLType.Q8_0, 4096)
    (seconds,) = quartiles(n_thread, [reader(work)], 7)
    return work.n_byte / seconds


def verify(path: Path, n_thread: int) -> str:
    """Cells with v(k), the time of a k-token step over that of one token, and with memory."""
    with Engine.open(path, n_ctx=512, n_threads=n_thread) as engine:
        engine.advance(list(range(64)), 0)
        rounds = list(_rounds(engine))
        resident = _resident_bytes()
    one, *few = (statistics.median(times) for times in zip(*rounds, strict=True))
    steps = ", ".join(
        f"v({n}) = {seconds / one:.2f}" for n, seconds in zip(VERIFY_TOKENS, few, strict=True)
    )
    over = (resident - path.stat().st_size) / 1e6
    return f"{steps} | | | | file {over:+.0f} MB resident | {os.getloadavg()[0]:.1f}"


def _rounds(engine: Engine) -> Iterator[list[float]]:
    """Seconds of steps of 1 token and of `VERIFY_TOKENS`, in turn."""
    for _ in range(N_VERIFY):
        seconds = []
        for n in (1, *VERIFY_TOKENS):
            ids = np.arange(n).tolist()
            started = time.perf_counter()
            engine.advance(ids, 64)
            seconds.append(time.perf_counter() - started)
        yield seconds


def _resident_bytes() -> int:
    """Memory of this process that is not a mapped file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
