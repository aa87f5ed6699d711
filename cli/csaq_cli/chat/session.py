"""One conversation: messages and settings → token ids → a streamed reply. No terminal here."""

import json
import os
from collections.abc import Generator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csaq_cli.chat.window import fitting
from csaq_cli.completion import Completion
from csaq_runtime.errors import UsageError
from csaq_runtime.prompt import Message

if TYPE_CHECKING:
    from csaq_runtime.engine import Engine
    from csaq_runtime.sample import Sampling

ROLES = ("system", "user", "assistant")


class ChatSession:
    """The messages so far, how to sample, and the reply under way.

    `messages` only ever holds whole turns: a message whose reply could not begin
    (template error, context full) is not kept, an interrupted reply is kept as far as it got.
    The oldest `n_left_out` messages do not fit into the context any more: the model is not shown
    them, and `note` says so when they become more. `completion` is the last reply's.
    """

    def __init__(
        self, engine: "Engine", sampling: "Sampling", n_predict: int = -1, system: str = ""
    ) -> None:
        self.engine, self.sampling, self.n_predict = engine, sampling, n_predict
        self.messages: list[Message] = []
        self.n_left_out, self.note = 0, ""
        self.completion: Completion | None = None
        self.set_system(system)

    def say(self, text: str) -> Generator[str]:
        """Add a user message and stream the reply to it."""
        return self._answer([*self.messages, {"role": "user", "content": text}])

    def regenerate(self) -> Generator[str]:
        """Replace the last reply by another one (the seed, if fixed, moves on by one)."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            raise UsageError("there is no reply to make again")
        if self.sampling.seed is not None:
            self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        return self._answer(self.messages[:-1])

    def _answer(self, messages: list[Message]) -> Generator[str]:
        engine, before = self.engine, self.n_left_out
        ids, n_left_out = fitting(engine.vocabulary, messages, engine.n_ctx, before)
        self.completion = Completion(engine, ids, self.sampling, self.n_predict)
        self.n_left_out = n_left_out
        self.note = _left_out(n_left_out, engine.n_ctx) if n_left_out > before else ""
        return self._stream(messages, self.completion)

    def _stream(self, messages: list[Message], completion: Completion) -> Generator[str]:
        pieces: list[str] = []
        try:
            for piece in completion:
                pieces.append(piece)
                yield piece
        finally:
            if completion.n_generated or completion.finish == "stop":
                reply = {"role": "assistant", "content": "".join(pieces)}
                self.messages = [*messages, reply]

    @property
    def system(self) -> str:
        """The system message, '' when there is none."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else ""

    def set_system(self, text: str) -> None:
        """Replace the system message; '' removes it. The other messages stay."""
        rest = [m for m in self.messages if m["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *rest] if text else rest

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = self.messages[:1] if self.system else []
        self.n_left_out = 0

    def save(self, path: Path) -> None:
        """Write messages and settings as JSON, atomically. Raises OSError."""
        partial = path.with_name(path.name + ".partial")
        content = {"messages": self.messages, "sampling": asdict(self.sampling)}
        with partial.open("w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, path: Path) -> None:
        """Take over the messages `save` wrote; raises UsageError when they are none."""
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError(f"{path}: not a conversation saved by /save") from error
        if not isinstance(messages, list) or not all(map(_is_message, messages)):
            raise UsageError(f"{path}: messages: not a list of role and content")
        self.messages, self.n_left_out = messages, 0


def _left_out(n_message: int, n_ctx: int) -> str:
    return (
        f"the context of {n_ctx} tokens is full: the model no longer sees the {n_message} "
        "oldest messages (/clear starts over, -c enlarges the context)"
    )


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and value["role"] in ROLES
        and isinstance(value["content"], str)
    )
