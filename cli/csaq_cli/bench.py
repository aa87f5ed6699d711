"""`csaq bench`: a GGUF → tokens per second of prompts and of generation, as llama-bench has them.

With `--vs` llama-bench runs in turn with our engine, repetition by repetition, so that both meet
the same machine.
"""

import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from csaq_cli.bench_trial import Trial, trials
from csaq_cli.locate import find_gguf

EPILOG = """\b
Examples:
  csaq bench model.gguf                          pp512 and tg128 with all cores
  csaq bench model.gguf -t 1,2 -d 0,4096 -r 3    threads and depths
  csaq bench model.gguf --vs ./llama-bench       side by side with llama.cpp
"""


class Counts(click.ParamType[tuple[int, ...]]):
    """Comma-separated whole numbers from `minimum` to a million."""

    name = "list"

    def __init__(self, minimum: int) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Text → numbers; a usage error names what is wrong."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(piece) for piece in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers", param, ctx)
        if not all(self.minimum <= number <= 1_000_000 for number in numbers):
            self.fail(f"{value!r}: numbers must be {self.minimum} … 1000000", param, ctx)
        return numbers


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-p",
    "--n-prompt",
    type=Counts(0),
    default="512",
    show_default=True,
    help="Prompt lengths, 0 = none.",
)
@click.option(
    "-n",
    "--n-gen",
    type=Counts(0),
    default="128",
    show_default=True,
    help="Generated tokens, 0 = none.",
)
@click.option(
    "-d",
    "--n-depth",
    type=Counts(0),
    default="0",
    show_default=True,
    help="Tokens in the context before.",
)
@click.option("-t", "--threads", type=Counts(1), help="Default: all cores.")
@click.option(
    "-r",
    "--repetitions",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Samples per test.",
)
@click.option(
    "--cache-type",
    type=click.Choice(["f16", "f32", "q8_0"]),
    default="f16",
    show_default=True,
    help="Number format of the KV cache.",
)
@click.option(
    "--vs",
    "peer",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A llama-bench to compare with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")
def bench(
    file: Path,
    n_prompt: tuple[int, ...],
    n_gen: tuple[int, ...],
    n_depth: tuple[int, ...],
    threads: tuple[int, ...] | None,
    repetitions: int,
    cache_type: str,
    peer: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast FILE runs on this machine."""
    from csaq_cli import bench_report
    from csaq_cli.inventory import take_inventory
    from csaq_runtime.threads import available_cores

    path = find_gguf(file)
    inventory = take_inventory(path)
    chosen = list(trials(n_prompt, n_gen, n_depth, threads or (available_cores(),)))
    if not chosen:
        raise click.UsageError("nothing to measure: both -p and -n are 0")
    load = os.getloadavg()[0]
    outcomes = measured(Contest(path, chosen, repetitions, cache_type, peer))
    if as_json:
        print(json.dumps(bench_report.as_json(inventory, path, outcomes, load), indent=2))
        return
    print(bench_report.as_table(inventory, outcomes))
    print(f"load average before: {load:.2f}", file=sys.stderr)


@dataclass(frozen=True)
class Contest:
    """Everything that is to be measured on one file."""

    path: Path
    chosen: Sequence[Trial]
    n_repeat: int
    cache_type: str
    peer: Path | None


def measured(contest: Contest) -> "list[Any]":
    """The `bench_report.Outcome` of every trial, in order; one engine per number of threads."""
    by_threads = groupby(contest.chosen, key=lambda trial: trial.n_threads)
    return [outcome for _, group in by_threads for outcome in _measured(contest, list(group))]


def _measured(contest: Contest, group: list[Trial]) -> Iterator[Any]:
    from csaq_cli.bench_engine import open_for, rate
    from csaq_cli.bench_report import Outcome

    with open_for(contest.path, group, contest.cache_type) as engine:
        for trial in group:
            ours, peers = [], []
            for _ in range(contest.n_repeat):
                peers.append(_peer_rates(contest, trial))
                ours.append(rate(engine, trial))
            yield Outcome(trial, ours, _better(peers))


def _peer_rates(contest: Contest, trial: Trial) -> list[float]:
    """One sample of each variant of the peer; none without a peer."""
    from csaq_cli.bench_peer import VARIANTS, peer_rate

    if contest.peer is None:
        return []
    arguments = (contest.peer, contest.path, trial, contest.cache_type)
    return [peer_rate(*arguments, variant) for variant in VARIANTS]


def _better(rounds: list[list[float]]) -> Sequence[float]:
    """Samples of the variant with the larger median."""
    return max(zip(*rounds, strict=True), key=statistics.median, default=())
