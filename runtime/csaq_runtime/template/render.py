"""The one way from messages to a prompt: plain copies in, a bounded rendering out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template
from jinja2 import TemplateError as JinjaError

from csaq_runtime.errors import TemplateError
from csaq_runtime.template.budget import budget
from csaq_runtime.template.sandbox import ChatEnvironment

# The longest real template is about 30 kB.
_SOURCE_LIMIT = 2**17
_TEMPLATES_CACHED = 16
_NO_EXTRA: Mapping[str, Any] = {}


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    extra: Mapping[str, Any] = _NO_EXTRA,
) -> str:
    """Render `messages` as transformers' `apply_chat_template` would.

    `extra` adds template variables (`tools`, `enable_thinking`, …). Every
    failure, a template that raises, escapes or exceeds its budget of time and
    memory included, is a one-line TemplateError.
    """
    variables = {"tools": None, "documents": None, "messages": messages} | dict(extra)
    variables |= {"bos_token": bos_token, "eos_token": eos_token}
    plain = plain_values(variables | {"add_generation_prompt": add_generation_prompt})
    try:
        with budget():
            return _compiled(template).render(plain)
    except TemplateError:
        raise
    except JinjaError as error:
        line = getattr(error, "lineno", None)
        where = "" if line is None else f" (line {line})"
        raise TemplateError(f"chat template: {_one_line(error)}{where}") from error
    except Exception as error:
        kind = type(error).__name__
        raise TemplateError(f"chat template: {kind}: {_one_line(error)}") from error


@lru_cache(maxsize=_TEMPLATES_CACHED)
def _compiled(source: str) -> Template:
    """The compiled template; the cache is keyed by the source's hash."""
    if len(source) > _SOURCE_LIMIT:
        raise TemplateError(f"chat template: longer than {_SOURCE_LIMIT} characters")
    return ChatEnvironment().from_string(source)


def plain_values(value: Any, depth: int = 0) -> Any:
    """A copy made of JSON's types only: objects would bring attributes into the sandbox.

    Raises TemplateError for other types and for nesting over 64.
    """
    if depth > 64:
        raise TemplateError("chat template: messages are nested too deeply")
    if isinstance(value, Mapping):
        return {str(key): plain_values(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(item, depth + 1) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TemplateError(f"chat template: a {type(value).__name__} is no template value")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
