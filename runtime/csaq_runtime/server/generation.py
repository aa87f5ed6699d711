"""One reply to make, and what it is made of while it comes: what all APIs boil down to."""

from collections.abc import Sequence
from dataclasses import dataclass

from csaq_runtime.sample import Sampling


@dataclass(frozen=True)
class Generation:
    """Prompt ids, how to draw, when to stop (`n_predict` tokens, `stops`), what to report.

    `n_top`: alternatives reported per token, -1 for no log probabilities at all.
    """

    ids: Sequence[int]
    sampling: Sampling
    n_predict: int
    stops: tuple[str, ...] = ()
    n_top: int = -1
    ignore_eos: bool = False


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its log probability (natural, before any filter), and the likeliest ones."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Summary:
    """How a reply ended ("stop" or "length") and what it took.

    `stop_text` is the stop string that ended it, None where the model did. Prompt tokens
    that were in a cache (`n_cached`) are part of `n_prompt` but took no time.
    """

    finish: str
    stop_text: str | None
    n_prompt: int
    n_cached: int
    n_generated: int
    prompt_seconds: float
    generated_seconds: float


@dataclass(frozen=True)
class Piece:
    """What a step adds to a reply; the last piece has a summary."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    summary: Summary | None = None
