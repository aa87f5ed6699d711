"""Replies with drafts beside plain ones: `python -m benchmarks.speculation FILE… [--head SIDECAR]`.

Per file: what steps of several tokens cost. Then per kind of reply (a story; a reply that falls
into repetition; an edit: the prompt's text once more with small changes, which is forced, whatever
the model would say) and drafter: a, the share of drafted tokens that stood; tokens per step; c and
v, what a drafted token and a step with its mean draft took, in plain steps; the speed that follows;
and the one measured against plain decoding just before and after it: of all replies together, and
the median reply's. Every reply is compared with the plain one, but where drafts are drawn by
chance; a difference ends the program with an error. `--spec` names the drafters, else all are
tried. With `--peer DIR` llama.cpp's programs there, plain and with their own look-ups, on the same
file and prompts. Nothing else should run meanwhile.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.batch import Span
from csaq_runtime.engine import Engine
from csaq_runtime.kernels.dispatch import PLANE_FORMATS
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.choose import DEFAULT_DRAFT, choose_strategy
from csaq_runtime.speculate.decoder import Decoder
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.head import HeadDrafter
from csaq_runtime.speculate.head_file import load_head
from csaq_runtime.speculate.strategy import State, Strategy

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play with her toys. One "
    "day, she found a big, red apple on the table. She was very happy and wanted to eat it. Lily "
    'took the apple to her mom and said, "Mom, can I eat the apple?" Her mom smiled and said, '
    '"Yes, but you have to wash your hands first." Lily washed her hands and ate the apple.\n\n'
)
EDITED = STORY.replace("Lily", "Anna").replace("big, red", "small, green")
STORIES = (
    "Once upon a time, there was a girl who",
    "Tom and Sue went to the park.",
    "The old",
    "One day, a small dog",
    "Ben had a new toy car.",
    "Once upon a time, in a big forest, there lived",
    "Mom said,",
    "The sun was hot and",
)
REPETITIVE = "Once upon a time, there was a dragon"
SAMPLED = Sampling(temperature=0.8, seed=3)
N_CTX, N_TIMED = 1024, 15
SIZES = (1, 2, 4, 8, 16)
N_RANDOM, SHARE_CHANGED = 150, 0.04
"""Tokens of a random text, and how many of them an edit changes."""

PEER_MODES = ("ngram-simple", "ngram-map-k", "ngram-mod", "ngram-cache")
PEER_SECONDS = 60


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--head", type=Path, help="sidecar of a head")
    parser.add_argument("--peer", type=Path, help="folder of llama.cpp's programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--spec", default="ngram,head,planes,auto")
    parser.add_argument("-n", type=int, default=200, help="tokens of a reply")
    arguments = parser.parse_args()
    for path in arguments.files:
        with Engine.open(path, n_ctx=N_CTX, n_threads=arguments.threads) as engine:
            costs = step_costs(engine)
            print_costs(path, costs)
            compare(engine, path, costs, arguments)
            can_compare = arguments.peer and has_text(engine)
        if can_compare:
            print_peer(path, arguments)


def step_costs(engine: Engine) -> dict[int, float]:
    """Median seconds of a step by its tokens, after a prompt of 100."""
    ids = np.random.default_rng(0).integers(0, engine.hparams.n_vocab, 100).tolist()
    engine.advance(ids, 0)

    def step(n: int) -> float:
        started = time.perf_counter()
        engine.step([Span(engine.caches[0], ids[:n], n)])
        seconds = time.perf_counter() - started
        engine.caches[0].truncate(len(ids))
        return seconds

    return {n: statistics.median(step(n) for _ in range(N_TIMED)) for n in SIZES}


def print_costs(path: Path, costs: dict[int, float]) -> None:
    """One line of v(k)."""
    v = ", ".join(f"v({n}) {costs[n] / costs[1]:.2f}" for n in SIZES[1:])
    print(f"\n{path.name}: plain {1e3 * costs[1]:.2f} ms; {v}\n")


class Scripted(Sampler):
    """Says what it is told to, whatever the logits are."""

    def __init__(self, script: Sequence[int], start: int) -> None:
        super().__init__(Sampling(temperature=0))
        self._script, self._start = script, start

    def sample(self, logits: NDArray[np.float32], context: Sequence[int]) -> int:
        """The next token of the script, after a prompt of `start`."""
        return self._script[len(context) - self._start]


@dataclass(frozen=True)
class Task:
    """A prompt, how many tokens to make, and a maker of samplers for it."""

    ids: list[int]
    n: int
    sampler: Callable[[], Sampler]


def tasks_by_kind(engine: Engine, n: int) -> dict[str, list[Task]]:
    """All replies that are made; of a file without a vocabulary an edit of random tokens."""
    if not has_text(engine):
        random = np.random.default_rng(0)
        ids = random.integers(0, engine.hparams.n_vocab, N_RANDOM).tolist()
        changed = [id + (random.random() < SHARE_CHANGED) for id in ids]
        return {"edit": [Task(ids, N_RANDOM, lambda: Scripted(changed, N_RANDOM))]}
    encode = engine.vocabulary.encode
    text, edited = encode(STORY), encode(EDITED)

    def tasks(prompts: Sequence[str], sampling: Sampling, n: int) -> list[Task]:
        return [Task(encode(prompt), n, lambda: Sampler(sampling)) for prompt in prompts]

    edit = Task(text, len(edited), lambda: Scripted(edited, len(text)))
    return {
        "open": tasks(STORIES, Sampling(temperature=0), n),
        "sampled": tasks(STORIES, SAMPLED, n),
        "repetition": tasks([REPETITIVE], Sampling(temperature=0), 2 * n),
        "edit": [edit],
    }


def has_text(engine: Engine) -> bool:
    """Whether the file has a vocabulary."""
    return engine.file.text("tokenizer.ggml.model", "none") not in ("none", "no_vocab")


def stops_of(engine: Engine) -> frozenset[int]:
    """Tokens that end a reply."""
    return frozenset(engine.vocabulary.eog_ids) if has_text(engine) else frozenset()


@dataclass
class Watched:
    """Passes on a strategy's drafts and counts: (tokens drafted, came, draft and step seconds)."""

    strategy: Strategy
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    by_chance: bool = False
    _n_sent: int = 0

    @property
    def plain_seconds(self) -> float:
        """As the strategy says."""
        return self.strategy.plain_seconds

    def begin(self, sampler: Sampler) -> None:
        """Pass on."""
        self.strategy.begin(sampler)

    def draft(self, context: Sequence[int], n: int, state: State) -> Draft:
        """Pass on, and count."""
        draft = self.strategy.draft(context, n, state)
        self._n_sent = len(draft.ids)
        self.by_chance |= draft.drawn_from is not None
        return draft

    def learn(self, tokens: Sequence[int], draft_seconds: float, step_seconds: float) -> None:
        """Pass on, and remember."""
        self.steps.append((self._n_sent, len(tokens), draft_seconds, step_seconds))
        self.strategy.learn(tokens, draft_seconds, step_seconds)


def compare(
    engine: Engine, path: Path, costs: dict[int, float], arguments: argparse.Namespace
) -> None:
    """Print a row per kind of reply and drafter."""
    print(
        "| replies | --spec | plain t/s | a | tokens/step | c | v | predicted | measured | median |"
        " equal |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for kind, tasks in tasks_by_kind(engine, arguments.n).items():
        for spec in offered(engine, arguments.head):
            if spec not in arguments.spec.split(","):
                continue
            with drafting(engine, path, spec, arguments) as (other, strategy):
                cells = row(engine, other, tasks, Watched(strategy), costs)
            print(f"| {kind} | {spec} | {cells} |", flush=True)


def offered(engine: Engine, head: Path | None) -> list[str]:
    """The drafters that the file has."""
    types = {info.type for info in engine.file.tensors.values()}
    found = [
        "ngram",
        *(["head"] if head else []),
        *(["planes"] if types & set(PLANE_FORMATS) else []),
    ]
    return [*found, "auto"]


@contextmanager
def drafting(
    engine: Engine, path: Path, spec: str, arguments: argparse.Namespace
) -> Iterator[tuple[Engine, Strategy]]:
    """The engine that drafts by `spec`, and a strategy that has seen no text yet."""
    if spec == "planes":
        with Engine.open(path, n_ctx=N_CTX, n_threads=arguments.threads, spec=spec) as other:
            assert other.strategy is not None
            yield other, other.strategy
        return
    drafter = None
    if arguments.head and spec != "ngram":
        head = load_head(arguments.head, engine.file, engine._stepper._model)
        drafter = HeadDrafter(head, engine.caches[0], engine._pool, DEFAULT_DRAFT)
    strategy = choose_strategy(spec, DEFAULT_DRAFT, drafter)
    assert strategy is not None
    yield engine, strategy


def row(
    engine: Engine, other: Engine, tasks: list[Task], watched: Watched, costs: dict[int, float]
) -> str:
    """Cells: speeds, and what they are made of."""
    seconds, n_plain, n_token, speeds = [0.0, 0.0], 0, 0, []
    for task in tasks:
        before, expected = made(engine, task, None)
        again, found = made(other, task, watched)
        taken = (before + made(engine, task, None)[0]) / 2
        if found != expected and not watched.by_chance:
            sys.exit(f"a reply differs from plain decoding: {expected} {found}")
        seconds = [seconds[0] + taken, seconds[1] + again]
        n_plain, n_token = n_plain + len(expected) - 1, n_token + len(found) - 1
        speeds.append(taken / (len(expected) - 1) / (again / (len(found) - 1)))
    plain = seconds[0] / n_plain
    drafts = [step for step in watched.steps if step[0]]
    n_drafted = max(sum(step[0] for step in drafts), 1)
    a = sum(step[1] - 1 for step in drafts) / n_drafted
    c = sum(step[2] for step in watched.steps) / n_drafted / plain
    v = sum(step[3] for step in drafts) / max(len(drafts), 1) / plain
    predicted = n_token / sum(step[2] / plain + at(costs, 1 + step[0]) for step in watched.steps)
    size = n_drafted / max(len(drafts), 1)
    cells = (
        f"{1 / plain:.0f}",
        f"{a:.2f} of {n_drafted}",
        f"{n_token / len(watched.steps):.2f}",
        f"{c:.2f}",
        f"{v:.2f} at {1 + size:.1f}",
        f"{predicted:.2f}",
        f"{plain * n_token / seconds[1]:.2f}",
        f"{statistics.median(speeds):.2f} of {len(speeds)}",
        "drawn" if watched.by_chance else f"{n_token}",
    )
    return " | ".join(cells)


def at(costs: dict[int, float], n: int) -> float:
    """v(n), between the sizes measured on straight lines."""
    return float(np.interp(n, SIZES, [costs[size] / costs[1] for size in SIZES]))


def made(engine: Engine, task: Task, strategy: Strategy | None) -> tuple[float, list[int]]:
    """Seconds after the first token, and the reply."""
    sampler, context, stops = task.sampler(), list(task.ids), stops_of(engine)
    decoder = Decoder(engine._stepper, engine.caches[0], sampler, stops, strategy)
    context.append(decoder.first(engine.advance(task.ids, 0), context))
    end, started = len(task.ids) + task.n, time.perf_counter()
    while len(context) < end and context[-1] not in stops:
        context += decoder.advance(context, end - len(context))
    return time.perf_counter() - started, context[len(task.ids) :]


def print_peer(path: Path, arguments: argparse.Namespace) -> None:
    """A row per kind of reply and mode of llama.cpp."""
    print("\n| replies | llama.cpp | plain t/s | t/s | speed-up | accepted/drafted |")
    print("|---|---|---|---|---|---|")
    for kind, prompt, n in (
        ("open", STORIES[0], arguments.n),
        ("repetition", REPETITIVE, 2 * arguments.n),
    ):
        settings = ["-m", path, "-p", prompt, "-n", n, "--temp", 0, "-t", arguments.threads]
        said = output(arguments.peer / "llama-completion", *settings, "-no-cnv", "-lv", 4)
        plain = number(r"\beval time.*?([\d.]+) tokens per second", said)
        for mode in ("llama-lookup", *PEER_MODES):
            if mode == "llama-lookup":
                said = output(arguments.peer / mode, *settings, "-lv", 4)
            else:
                program = arguments.peer / "llama-speculative-simple"
                said = output(program, *settings, "--spec-type", mode, "-lv", 4)
            rate = number(r"decoded.*?speed:\s*([\d.]+) t/s", said)
            counts = [number(rf"n_{what}\s*=\s*(\d+)", said) for what in ("accept", "drafted")]
            share = "/".join(f"{count:.0f}" for count in counts)
            print(f"| {kind} | {mode} | {plain:.0f} | {rate:.0f} | {rate / plain:.2f} | {share} |")


def output(program: Path, *settings: object) -> str:
    """Everything that a program says."""
    command = [str(program), *map(str, settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PEER_SECONDS
    )
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> float:
    """The last number that `pattern` finds; not a number where there is none."""
    found = re.findall(pattern, text)
    return float(found[-1]) if found else float("nan")


if __name__ == "__main__":
    main()
