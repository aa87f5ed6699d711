"""Fields of a request → prompt ids: text, token ids, or messages in the model's chat template."""

from collections.abc import Sequence
from typing import Any

from csaq_runtime.prompt import chat_ids
from csaq_runtime.server.failure import RequestError
from csaq_runtime.server.fields import Fields
from csaq_runtime.tokenizer import Vocabulary

MAX_MESSAGES, MAX_ROLE = 4096, 64
KEPT_FIELDS = ("name", "tool_call_id", "reasoning_content")
"""What templates may read of a message besides role and content."""


def text_prompts(fields: Fields, vocabulary: Vocabulary, most: int) -> list[list[int]]:
    """Ids of `prompt`: a text, a list of ids, or a list of either."""
    value = fields.any("prompt")
    if value is None:
        raise fields.error("prompt", "is missing")
    several = isinstance(value, list) and not all(map(_is_id, value))
    prompts = value if several else [value]
    if not 1 <= len(prompts) <= most:
        raise fields.error("prompt", f"1 … {most} prompts")
    return [_encode(prompt, fields, vocabulary) for prompt in prompts]


def _encode(prompt: Any, fields: Fields, vocabulary: Vocabulary) -> list[int]:
    if isinstance(prompt, str):
        ids = vocabulary.encode(prompt)
    elif isinstance(prompt, list) and all(map(_is_id, prompt)):
        ids = list(prompt)
    else:
        raise fields.error("prompt", "must be a string, a list of token ids, or a list of those")
    if not ids:
        raise fields.error("prompt", "is empty")
    return ids


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def token_ids(fields: Fields, name: str, n_vocab: int) -> list[int]:
    """A field that is a list of ids below `n_vocab`."""
    value = fields.any(name)
    if not isinstance(value, list) or not all(_is_id(v) and 0 <= v < n_vocab for v in value):
        raise fields.error(name, f"must be a list of token ids 0 … {n_vocab - 1}")
    return value


def chat_prompt(fields: Fields, vocabulary: Vocabulary) -> list[int]:
    """Ids of `messages` in the model's template; `chat_template_kwargs` are its switches."""
    if not vocabulary.chat_template:
        raise RequestError("this model has no chat template", code="no_chat_template")
    value = fields.any("messages")
    if not isinstance(value, list) or not value:
        raise fields.error("messages", "must be a list of messages")
    if len(value) > MAX_MESSAGES:
        raise fields.error("messages", f"at most {MAX_MESSAGES} messages")
    messages = [_message(item, number) for number, item in enumerate(value)]
    return chat_ids(vocabulary, messages, _switches(fields.object("chat_template_kwargs")))


def _switches(fields: Fields) -> dict[str, bool | int | float]:
    """Variables for a template; never texts, which could spell control tokens."""
    reserved = ("messages", "bos_token", "eos_token", "add_generation_prompt")
    for name, value in fields.values.items():
        if name in reserved or not isinstance(value, bool | int | float):
            raise fields.error(name, "only numbers, true and false, for variables of the template")
    return dict(fields.values)


def _message(value: Any, number: int) -> dict[str, str]:
    """One message as templates expect it: content is text."""
    fields = Fields(value if isinstance(value, dict) else {}, f"messages[{number}].")
    role = fields.text("role")
    if not role or len(role) > MAX_ROLE:
        raise fields.error("role", "must be a name such as user or assistant")
    fields.refuse("tool_calls", "tool calls are not supported")
    message = {"role": role, "content": _content(fields)}
    for name in KEPT_FIELDS:
        text = fields.text(name)
        if text is not None:
            message[name] = text
    return message


def _content(fields: Fields) -> str:
    """A message's text, or its parts of type text, one after the other."""
    value = fields.any("content")
    if value is None or isinstance(value, str):
        return value or ""
    if not isinstance(value, list):
        raise fields.error("content", "must be a string or a list of parts")
    return "".join(_part(part, fields) for part in value)


def _part(part: Any, fields: Fields) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise fields.error("content", "only parts of type text are supported")
    return text


def room_for_reply(ids: Sequence[int], n_ctx: int, n_predict: int) -> int:
    """Tokens that may be generated after `ids`: `n_predict` (-1 = no limit) but what fits.

    A prompt is never trimmed: RequestError when it leaves no room.
    """
    if len(ids) >= n_ctx:
        message = f"the prompt has {len(ids)} tokens, the context holds {n_ctx} with the reply"
        raise RequestError(message, code="context_length_exceeded")
    room = n_ctx - len(ids)
    return room if n_predict < 0 else min(n_predict, room)
