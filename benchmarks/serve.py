"""Throughput of continuous batching: tokens per second of 1, 4 and 8 clients that share a model.

`python benchmarks/serve.py model.gguf` runs the scheduler of `csaq serve` without HTTP;
`--random 0.5B:Q4_0` writes a file of random weights first (see `random_model.py`).
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.random_model import MODELS, write_random
from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampling
from csaq_runtime.server.generation import Generation, Piece
from csaq_runtime.server.job import Job
from csaq_runtime.server.scheduler import Scheduler

SILENT: Any = SimpleNamespace(
    eog_ids=frozenset(), stream=lambda: SimpleNamespace(push=lambda id: "", flush=lambda: "")
)
"""A vocabulary for files that have none: nothing ends a reply, no text comes of it."""


Seconds = tuple[float, float]


def seconds_of(
    scheduler: Scheduler, n_client: int, n_prompt: int, n_predict: int, n: int
) -> Seconds:
    """From submitting `n_client` prompts to the last token of the last of them: wall, processor."""
    random = np.random.default_rng((n_client, n))
    ended = threading.Semaphore(0)

    def deliver(piece: Piece | Exception) -> None:
        if isinstance(piece, Exception) or piece.summary:
            ended.release()

    prompts = random.integers(1, 256, (n_client, n_prompt)).tolist()
    sampling = Sampling(temperature=0)
    jobs = [Job(Generation(ids, sampling, n_predict), SILENT, deliver) for ids in prompts]
    started, worked = time.perf_counter(), time.process_time()
    scheduler.submit(jobs)
    for _ in jobs:
        ended.acquire()
    return time.perf_counter() - started, time.process_time() - worked


def measure(path: Path, arguments: argparse.Namespace) -> None:
    """Print one line per number of clients: median over the repetitions, interleaved."""
    n_predict, clients = arguments.predict, arguments.clients
    n_ctx = arguments.prompt + n_predict
    with Engine.open(path, n_ctx=n_ctx, n_threads=arguments.threads, n_sequence=max(clients)) as e:
        scheduler = Scheduler(e)
        seconds_of(scheduler, 1, arguments.prompt, 4, 10**6)
        seconds: dict[int, list[Seconds]] = {n: [] for n in clients}
        for repetition in range(arguments.repetitions):
            for n in clients:
                took = seconds_of(scheduler, n, arguments.prompt, n_predict, repetition)
                seconds[n].append(took)
        scheduler.close()
    rates = {n: n * n_predict / np.median(took, axis=0) for n, took in seconds.items()}
    for n, (rate, per_work) in rates.items():
        ratios = rates[n] / rates[clients[0]]
        print(
            f"{path.name}: {n} clients {rate:8.1f} tokens/s (× {ratios[0]:.2f}),"
            f" {1000 / per_work:.2f} ms of processor time per token (× {1 / ratios[1]:.2f})"
        )


def main() -> None:
    """Parse the command line and measure every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--random", nargs="*", default=[], help="shapes and presets, 0.5B:Q4_0")
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 4, 8])
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--predict", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    for path in arguments.files:
        measure(path, arguments)
    for name in arguments.random:
        shape, preset = name.split(":")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{MODELS[shape].name}-{preset}.gguf"
            write_random(path, MODELS[shape], preset)
            measure(path, arguments)


if __name__ == "__main__":
    main()
