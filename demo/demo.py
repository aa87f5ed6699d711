"""`make demo`: the demo model, converted, measured against the original, and telling a story.

Reads `demo/model` (bf16 safetensors) and `demo/stories.txt` (TinyStories the model
never saw); writes GGUFs to `demo/out`.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_cli.table import size_text
from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import log_softmax

HERE = Path(__file__).resolve().parent
MODEL, STORIES, OUT = HERE / "model", HERE / "stories.txt", HERE / "out"
# The first is a lossless copy of the bf16 weights: what the others are measured against.
TYPES = ("BF16", "Q8_0", "Q4_K_M")
OPENING = "Once upon a time, there was a little girl named Lily."

Logits = list[NDArray[np.float64]]


@dataclass(frozen=True)
class Quality:
    """`perplexity` of the stories; `divergence` from the original: mean KL in nats per token."""

    perplexity: float
    divergence: float


def csaq(*arguments: str) -> None:
    """Show and run one `csaq` command; a failure ends the demo with its exit code."""
    shown = " ".join(f'"{a}"' if " " in a else a.replace(f"{HERE}/", "demo/") for a in arguments)
    print(f"\n$ csaq {shown}", flush=True)
    done = subprocess.run([sys.executable, "-m", "csaq_cli", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def convert(kind: str) -> Path:
    """Convert the model to `kind`; returns the GGUF's path."""
    path = OUT / f"demo-{kind}.gguf"
    csaq("convert", str(MODEL), "--to", "gguf", "--type", kind, "-o", str(path), "--force", "-q")
    return path


def read_stories() -> list[str]:
    """The stories the quality is measured on."""
    return [s.strip() for s in STORIES.read_text(encoding="utf-8").split("<|endoftext|>")]


def score(path: Path, stories: list[str]) -> tuple[Logits, list[NDArray[np.int64]]]:
    """Log-probabilities [n, n_vocab] of every next token, and the token that came, per story."""
    scores, targets = [], []
    with Engine.open(path) as engine:
        for story in stories:
            ids = [engine.vocabulary.bos_id or 0, *engine.vocabulary.encode(story, False)]
            scores.append(log_softmax(engine.logits(ids[:-1])))
            targets.append(np.asarray(ids[1:]))
    return scores, targets


def compare(original: Logits, scores: Logits, targets: list[NDArray[np.int64]]) -> Quality:
    """Perplexity of `scores` and its mean KL divergence from `original`."""
    losses = [-s[np.arange(len(t)), t] for s, t in zip(scores, targets, strict=True)]
    divergences = [(np.exp(o) * (o - s)).sum(1) for o, s in zip(original, scores, strict=True)]
    return Quality(
        float(np.exp(np.concatenate(losses).mean())), float(np.concatenate(divergences).mean())
    )


def print_comparison(paths: dict[str, Path]) -> None:
    """Size and quality of every file against the first one."""
    stories = read_stories()
    original, targets = score(paths[TYPES[0]], stories)
    n_token = sum(len(t) for t in targets)
    print(f"\nSize and quality on {n_token:,} tokens of stories the model has not seen:\n")
    print(f"{'type':<8} {'size':>9} {'perplexity':>11} {'KL to BF16':>11}")
    for kind, path in paths.items():
        scores = original if kind == TYPES[0] else score(path, stories)[0]
        quality = compare(original, scores, targets)
        size = size_text(path.stat().st_size)
        print(f"{kind:<8} {size:>9} {quality.perplexity:>11.3f} {quality.divergence:>11.5f}")


def main() -> None:
    """Convert, measure, generate."""
    weights = MODEL / "model.safetensors"
    if not weights.is_file():
        sys.exit(f"demo: {weights} is missing: train it with demo/train.py")
    print(f"The demo model: {size_text(weights.stat().st_size)} of bf16 weights in {MODEL}")
    OUT.mkdir(exist_ok=True)
    paths = {kind: convert(kind) for kind in TYPES}
    print_comparison(paths)
    csaq("info", str(paths[TYPES[-1]]))
    csaq("run", str(paths[TYPES[-1]]), "-p", OPENING, "-n", "200", "--seed", "5", "--temp", "0.4")


if __name__ == "__main__":
    main()
