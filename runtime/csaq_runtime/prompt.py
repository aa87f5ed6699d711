"""What a model is asked: messages or plain text → token ids that fit its context."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_runtime.tokenizer import Vocabulary

_NO_EXTRA: Mapping[str, Any] = {}
Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


def conversation(system: str, user: str) -> list[Message]:
    """A first turn; an empty `system` is left out."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": user}]


def chat_ids(
    vocabulary: "Vocabulary",
    messages: Sequence[Mapping[str, str]],
    extra: Mapping[str, Any] = _NO_EXTRA,
) -> list[int]:
    """Token ids of `messages` in the model's own chat template, ready for the reply.

    Control tokens come from the template alone: their texts inside a message stay text.
    Most templates write the BOS text themselves, some leave it to the tokenizer:
    it is added only where it is wanted and missing. `extra` are template variables such as
    `enable_thinking`. Raises TemplateError.
    """
    from csaq_runtime.template import plain_values, render_chat

    plain = plain_values(messages)
    disguise = vocabulary.disguise(plain)
    text = render_chat(
        vocabulary.chat_template or "",
        disguise.hide(plain),
        bos_token=token_text(vocabulary, vocabulary.bos_id),
        eos_token=token_text(vocabulary, vocabulary.eos_id),
        extra=extra,
    )
    ids = vocabulary.encode_prompt(text, disguise)
    bos = vocabulary.bos_id
    missing = vocabulary.add_bos and bos is not None and ids[:1] != [bos]
    return [bos, *ids] if missing and bos is not None else ids


def token_text(vocabulary: "Vocabulary", token_id: int | None) -> str:
    """The text of a special token, '' where the model has none."""
    return "" if token_id is None else vocabulary.piece(token_id)


def room_for_reply(n_prompt: int, n_ctx: int, n_predict: int) -> int:
    """Tokens that may be generated: `n_predict` (-1 = no limit), at most what `n_ctx` leaves.

    A prompt is never trimmed: raises UsageError when it leaves no room.
    """
    if n_prompt == 0:
        raise UsageError("the prompt is empty")
    if n_prompt >= n_ctx:
        raise UsageError(
            f"the prompt has {n_prompt} tokens, the context holds {n_ctx} including the reply",
            "enlarge it with -c if the model allows, or shorten the prompt (in a chat: /clear)",
        )
    room = n_ctx - n_prompt
    return room if n_predict < 0 else min(n_predict, room)
