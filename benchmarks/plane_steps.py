"""What drafts by planes cost: `python benchmarks/plane_steps.py FILE… [--threads 2] [--rounds 12]`.

Per file of Q8_0 or BF16 weights: seconds to load it undivided and in two planes; the time of a
plain step; relative to it, a drafted token (c) and steps of 1 … 8 tokens of both (v), measured in
turn; and the speed-up that follows for drafts of 1, 3 and 7 tokens of which a share of 0.9, 0.95
or 0.98 stands each. Random weights do: nothing depends on what is said. The least of all rounds
counts, as others may use the machine.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "runtime")]

from csaq_runtime.batch import Span  # noqa: E402
from csaq_runtime.cache import KVCache  # noqa: E402
from csaq_runtime.gguf import open_gguf  # noqa: E402
from csaq_runtime.hparams import read_hparams  # noqa: E402
from csaq_runtime.kernels.native_step import native_serve  # noqa: E402
from csaq_runtime.model import load_model  # noqa: E402
from csaq_runtime.speculate.planes import upper_model  # noqa: E402
from csaq_runtime.step import Stepper  # noqa: E402
from csaq_runtime.threads import ThreadPool  # noqa: E402

N_CTX, N_PAST = 128, 32
TOKENS = (1, 2, 4, 8)
SHARES = (0.9, 0.95, 0.98)


def main() -> None:
    """Print a Markdown row per file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    print("| file | load s | in planes | plain ms | c | v of plain | v of planes | S by a | load |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in arguments.files:
        cells = row(path, arguments.threads, arguments.rounds)
        print(f"| {path.stem} | {cells} | {os.getloadavg()[0]:.1f} |", flush=True)


def row(path: Path, n_thread: int, n_round: int) -> str:
    """Cells of one file."""
    with open_gguf(path) as file:
        hparams, pool = read_hparams(file), ThreadPool(n_thread, native_serve())
        started = time.perf_counter()
        plain = load_model(file, hparams, n_thread)
        middle = time.perf_counter()
        planes = load_model(file, hparams, n_thread, planes=True)
        loads = middle - started, time.perf_counter() - middle
        cache = KVCache(hparams, N_CTX, "f16")
        models = (plain, planes, upper_model(planes))
        steppers = [Stepper(model, cache, pool, N_PAST, TOKENS[-1]) for model in models]
        least = measured(cache, steppers, n_round)
        pool.close()
    one = least[0][1]
    whole, divided, (c,) = ([seconds / one for seconds in times.values()] for times in least)
    seconds = " | ".join(f"{value:.1f}" for value in (*loads, 1e3 * one))
    v = " | ".join(", ".join(f"{value:.2f}" for value in times) for times in (whole, divided))
    return f"{seconds} | {c:.2f} | {v} | {speedups(c, divided)}"


def measured(cache: KVCache, steppers: list[Stepper], n_round: int) -> list[dict[int, float]]:
    """Least seconds by tokens: of plain steps, of steps in planes, and of a draft's."""
    steppers[0].run([Span(cache, list(range(N_PAST)), 1)])
    least: list[dict[int, float]] = [{}, {}, {}]
    for _ in range(n_round):
        for n in TOKENS:
            for number, stepper in enumerate(steppers):
                if number < 2 or n == 1:
                    seconds = timed(lambda s=stepper, k=n: step(s, cache, k))  # type: ignore[misc]
                    least[number][n] = min(seconds, least[number].get(n, seconds))
    return least


def step(stepper: Stepper, cache: KVCache, n: int) -> None:
    """A step of `n` tokens after the first `N_PAST`."""
    cache.truncate(N_PAST)
    stepper.run([Span(cache, list(range(n)), n)])


def timed(work: Callable[[], None]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def speedups(c: float, v: list[float]) -> str:
    """Per share that stands the best of (1 - a^(n+1)) / (1 - a) / (c n + v(n+1)), n = 1, 3, 7."""
    cells = []
    for a in SHARES:
        pairs = zip(TOKENS[1:], v[1:], strict=True)
        best = max(((1 - a**k) / (1 - a) / (c * (k - 1) + cost), k - 1) for k, cost in pairs)
        cells.append(f"{a}: {best[0]:.2f} (n = {best[1]})")
    return ", ".join(cells)


if __name__ == "__main__":
    main()
