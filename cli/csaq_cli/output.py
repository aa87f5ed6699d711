"""What `csaq run` prints besides the reply: the footer on stderr, or one JSON object on stdout."""

import json
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from csaq_cli.completion import Completion
    from csaq_runtime.engine import Engine, Timings


def print_footer(completion: "Completion") -> None:
    """`[ Prompt: x t/s | Generation: y t/s | Context: n/n_ctx ]` of a reply, on stderr.

    With drafts, what they brought; a reply that a limit ended says so.
    """
    prompt, generation = (f"{rate:.1f} t/s" for rate in rates(completion.engine))
    used = completion.n_prompt + completion.n_generated
    parts = [
        f"Prompt: {prompt}",
        f"Generation: {generation}",
        *_draft_part(completion.engine.timings),
        f"Context: {used}/{completion.engine.n_ctx}",
    ]
    if completion.finish == "length":
        full = used >= completion.engine.n_ctx
        limit = "the context is full" if full else f"{completion.n_predict} tokens (-n)"
        parts.append(f"cut off: {limit}")
    print(f"[ {' | '.join(parts)} ]", file=sys.stderr)


def _draft_part(timings: "Timings") -> list[str]:
    """`draft accepted/drafted, tokens per step, speed against plain` where anything was drafted."""
    draft = timings.draft
    if not draft.n_drafted:
        return []
    text = f"draft {draft.n_accepted}/{draft.n_drafted}, {timings.tokens_per_step:.2f} tokens/step"
    return [text + (f", {timings.speedup:.2f}x plain" if timings.speedup else "")]


def print_json(text: str, completion: "Completion") -> None:
    """The whole reply and its figures as one JSON object, on stdout."""
    prompt, generation = rates(completion.engine)
    timings = completion.engine.timings
    report = {
        "text": text,
        "finish": completion.finish,
        "prompt_tokens": completion.n_prompt,
        "generated_tokens": completion.n_generated,
        "prompt_tokens_per_second": round(prompt, 2),
        "generated_tokens_per_second": round(generation, 2),
        "drafted_tokens": timings.draft.n_drafted,
        "accepted_tokens": timings.draft.n_accepted,
        "tokens_per_step": round(timings.tokens_per_step, 3),
        "speedup": round(timings.speedup, 3) if timings.speedup else None,
    }
    print(json.dumps(report, ensure_ascii=False))


def rates(engine: "Engine") -> tuple[float, float]:
    """Tokens per second of prompt and generation in the last reply (0 where nothing ran)."""
    timings = engine.timings
    return (
        _rate(timings.n_prompt, timings.prompt_seconds),
        _rate(timings.n_generated, timings.generated_seconds),
    )


def _rate(n_token: int, seconds: float) -> float:
    return n_token / seconds if seconds > 0 else 0.0


def wants_color(choice: str, stream: TextIO) -> bool:
    """`--color` on/off/auto; auto means a terminal that has not asked for NO_COLOR."""
    if choice == "auto":
        return stream.isatty() and not os.environ.get("NO_COLOR")
    return choice == "on"
