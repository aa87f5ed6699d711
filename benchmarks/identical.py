"""Replies with drafts are those without: `python -m benchmarks.identical FILE… --text STORIES`.

Per file, drafter (`--head SIDECAR` for that one), number of threads and most tokens of a draft:
greedy replies to the beginnings of texts, compared with those of plain decoding by one thread. A
difference ends the program with an error. Prints the tokens compared.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.draft_head import beginnings
from benchmarks.speculation import Task, made, offered
from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.drafter import Drafter
from csaq_runtime.speculate.head import HeadDrafter
from csaq_runtime.speculate.ngram import NGramDrafter
from csaq_runtime.speculate.planes import PlanesDrafter

LENGTHS, THREADS, N_CTX = (1, 3, 7, 15), (1, 2), 512


def main() -> None:
    """Print a Markdown row per file and drafter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--head", type=Path)
    parser.add_argument("--texts", type=int, default=12)
    parser.add_argument("-n", type=int, default=150, help="tokens of a reply")
    arguments = parser.parse_args()
    print("| file | drafter | tokens equal | drafted | stood |\n|---|---|---|---|---|")
    for path in arguments.files:
        with Engine.open(path, n_ctx=N_CTX, n_threads=1) as engine:
            prompts = beginnings(engine, arguments.text, arguments.texts)
            tasks = [
                Task(ids, arguments.n, lambda: Sampler(Sampling(temperature=0))) for ids in prompts
            ]
            replies = [made(engine, task, None)[1] for task in tasks]
            kinds = offered(engine, arguments.head)[:-1]
        for kind in kinds:
            print(f"| {path.stem} | {kind} | {compared(path, kind, tasks, replies, arguments)} |")


def compared(
    path: Path,
    kind: str,
    tasks: list[Task],
    replies: list[list[int]],
    arguments: argparse.Namespace,
) -> str:
    """Cells: tokens that were equal, drafted and accepted."""
    n_equal = n_drafted = n_stood = 0
    for threads in THREADS:
        options = {"draft_model": arguments.head} if kind == "head" else {}
        with Engine.open(path, n_ctx=N_CTX, n_threads=threads, spec=kind, **options) as engine:
            drafter = drafter_of(engine)
            for length in LENGTHS:
                for task, reply in zip(tasks, replies, strict=True):
                    ids = [s.token_id for s in
                           engine.generate(task.ids, Sampling(temperature=0), task.n,
                                           drafter, length)]  # fmt: skip
                    # The reply of `made` has the token that ended it, too.
                    if ids != reply[: len(ids)] or len(ids) < len(reply) - 1:
                        sys.exit(f"{path}: {kind}: a reply differs from plain decoding")
                    n_equal += len(ids)
                    n_drafted += engine.timings.draft.n_drafted
                    n_stood += engine.timings.draft.n_accepted
    return f"{n_equal:,} | {n_drafted:,} | {n_stood:,}"


def drafter_of(engine: Engine) -> Drafter:
    """The drafter that an engine was opened with."""
    found: HeadDrafter | PlanesDrafter | None = engine._drafter
    return NGramDrafter() if found is None else found


if __name__ == "__main__":
    main()
