"""Replies with and without drafts: `python benchmarks/speculation.py FILE… [--threads 1] [-n 200]`.

Per file and kind of prompt (a story to begin; a story repeated with small changes): tokens per
second plain and with `--spec auto`, in turn and each in an engine that has seen no text before, the
share of drafted tokens that stood, tokens per step. Seconds are of CPU where one thread is used, as
others may use the machine. Every reply with drafts is compared with the plain one, greedy and
sampled, and one with a fixed draft length as well; a difference ends the program with an error.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "runtime")]

from csaq_runtime.engine import Engine  # noqa: E402
from csaq_runtime.sample import Sampling  # noqa: E402
from csaq_runtime.speculate.ngram import NGramDrafter  # noqa: E402

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play with her toys. One "
    "day, she found a big, red apple on the table. She was very happy and wanted to eat it. Lily "
    'took the apple to her mom and said, "Mom, can I eat the apple?" Her mom smiled and said, '
    '"Yes, but you have to wash your hands first." Lily washed her hands and ate the apple.\n\n'
)
PROMPTS = {
    "open": ["Once upon a time, there was a dragon", "Tom and Sue went to the park.", "The old"],
    "copy": [
        STORY + STORY.replace("Lily", "Anna") + STORY.replace("Lily", "Lucy")[:60],
        STORY + STORY.replace("apple", "pear") + STORY.replace("apple", "cake")[:140],
    ],
}
SAMPLINGS = (Sampling(temperature=0), Sampling(temperature=0.8, seed=3))
FIXED_LENGTHS = (1, 3, 7, 15)
N_CTX = 1024


@dataclass
class Reply:
    """Ids of a reply, seconds per token, tokens per step, drafted and accepted tokens."""

    ids: list[int]
    seconds: float
    per_step: float
    n_drafted: int
    n_accepted: int


def main() -> None:
    """Print a Markdown row per file, kind and sampling."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-n", type=int, default=200, help="tokens of a reply")
    arguments = parser.parse_args()
    print("| file | prompts | temperature | plain t/s | auto | accepted | tokens/step | compared |")
    print("|---|---|---|---|---|---|---|---|")
    for path in arguments.files:
        for kind, prompts in PROMPTS.items():
            for sampling in SAMPLINGS:
                row = compared(path, prompts, sampling, arguments.n, arguments.threads)
                print(f"| {path.stem} | {kind} | {sampling.temperature} | {row} |", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


def compared(path: Path, prompts: Sequence[str], sampling: Sampling, n: int, threads: int) -> str:
    """Cells of one row, once all replies have been found equal."""
    pairs, n_compared = [], 0
    for prompt in prompts:
        with Engine.open(path, n_ctx=N_CTX, n_threads=threads) as engine:
            plain = reply(engine, prompt, sampling, n, threads)
            for length in FIXED_LENGTHS:
                ids = engine.vocabulary.encode(prompt)
                steps = engine.generate(ids, sampling, n, NGramDrafter(), length)
                n_compared += same(plain, [step.token_id for step in steps])
        with Engine.open(path, n_ctx=N_CTX, n_threads=threads, spec="auto") as engine:
            auto = reply(engine, prompt, sampling, n, threads)
            n_compared += same(plain, auto.ids)
        pairs.append((plain, auto))
    speedup = statistics.mean(plain.seconds / auto.seconds for plain, auto in pairs)
    rate = statistics.mean(1 / plain.seconds for plain, _ in pairs)
    drafted, accepted = (sum(getattr(a, k) for _, a in pairs) for k in ("n_drafted", "n_accepted"))
    per_step = statistics.mean(auto.per_step for _, auto in pairs)
    return f"{rate:.0f} | {speedup:.2f}x | {accepted}/{drafted} | {per_step:.2f} | {n_compared}"


def reply(engine: Engine, prompt: str, sampling: Sampling, n: int, threads: int) -> Reply:
    """Generate up to `n` tokens; the prompt is read before the clock starts."""
    clock = time.process_time if threads == 1 else time.perf_counter
    ids = engine.vocabulary.encode(prompt)
    steps = engine.generate(ids, sampling, n)
    reply = [next(steps).token_id]
    started = clock()
    reply += [step.token_id for step in steps]
    seconds = (clock() - started) / max(len(reply) - 1, 1)
    draft = engine.timings.draft
    per_step = engine.timings.tokens_per_step
    return Reply(reply, seconds, per_step, draft.n_drafted, draft.n_accepted)


def same(plain: Reply, ids: Sequence[int]) -> int:
    """Tokens of a reply with drafts; ends the program where they differ from the plain one's."""
    if list(ids) != plain.ids:
        sys.exit(f"a reply differs from plain decoding: {plain.ids} {ids}")
    return len(ids)


if __name__ == "__main__":
    main()
