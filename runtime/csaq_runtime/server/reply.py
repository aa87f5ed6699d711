"""What a reply looks like on the wire: the interface of all APIs' formats, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from csaq_runtime.server.generation import Generation, Piece, Summary, TokenLogprob

Json = dict[str, Any]
DONE = "[DONE]"
"""The last event of a stream in OpenAI's API."""


@dataclass
class Choice:
    """One reply put together from its pieces."""

    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    summary: Summary | None = None

    def add(self, piece: Piece) -> None:
        """Append what a step brought."""
        self.texts.append(piece.text)
        self.token_ids += piece.token_ids
        self.logprobs += piece.logprobs
        self.summary = piece.summary

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)

    @property
    def finished(self) -> Summary:
        """The summary of a reply that has ended."""
        assert self.summary is not None
        return self.summary


class ReplyFormat(Protocol):
    """How one API says it. Events are JSON objects, or the text `DONE`."""

    def opening(self) -> list[Json]:
        """Events before the first piece."""

    def event(self, index: int, piece: Piece) -> Json:
        """The event of a piece of choice number `index`."""

    def closing(self, choices: Sequence[Choice]) -> list[Json | str]:
        """Events after the last piece."""

    def whole(self, choices: Sequence[Choice]) -> Json:
        """Everything at once, for requests that do not stream."""


@dataclass(frozen=True)
class Asked:
    """A request that has been read: what to generate and how to answer."""

    generations: Sequence[Generation]
    stream: bool
    format: ReplyFormat


def usage(choices: Sequence[Choice], n: int) -> Json:
    """OpenAI's token counts; a prompt of which `n` choices were asked counts once."""
    summaries = [choice.finished for choice in choices]
    n_prompt = sum(summary.n_prompt for summary in summaries[::n])
    n_cached = sum(summary.n_cached for summary in summaries[::n])
    n_generated = sum(summary.n_generated for summary in summaries)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_generated,
        "total_tokens": n_prompt + n_generated,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }
