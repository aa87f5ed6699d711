"""A conversation longer than the context → the messages that still fit, the newest ones."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from csaq_runtime.prompt import Message, chat_ids

if TYPE_CHECKING:
    from csaq_runtime.tokenizer import Vocabulary

# Share of the context that a reply should find free, and what is free once messages are left out:
# leaving out is done for several turns at once, as the rest has to be read again after it.
FREE_SHARE, FREED_SHARE = 8, 2


def fitting(
    vocabulary: "Vocabulary", messages: Sequence[Message], n_ctx: int, n_left_out: int
) -> tuple[list[int], int]:
    """Token ids of `messages` without the oldest turns, and how many messages those have.

    `n_left_out` were left out before and stay so. The system message and the last message are
    always there, so the ids may still be too many. Raises TemplateError.
    """
    ids = chat_ids(vocabulary, without_oldest(messages, n_left_out))
    if len(ids) + n_ctx // FREE_SHARE <= n_ctx:
        return ids, n_left_out
    while len(ids) > n_ctx // FREED_SHARE:
        more = _next_turn(messages, n_left_out)
        if more == n_left_out:
            break
        n_left_out = more
        ids = chat_ids(vocabulary, without_oldest(messages, n_left_out))
    return ids, n_left_out


def without_oldest(messages: Sequence[Message], n: int) -> list[Message]:
    """`messages` without the first `n` after the system message."""
    n_system = _n_system(messages)
    return [*messages[:n_system], *messages[n_system + n :]]


def _next_turn(messages: Sequence[Message], n_left_out: int) -> int:
    """`n_left_out` and one turn more: what is left begins with a user's message."""
    n_system = _n_system(messages)
    starts = [i for i, m in enumerate(messages[n_system:]) if m["role"] == "user"]
    return min((i for i in starts if i > n_left_out), default=n_left_out)


def _n_system(messages: Sequence[Message]) -> int:
    return int(bool(messages) and messages[0]["role"] == "system")
