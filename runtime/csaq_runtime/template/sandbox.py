"""The Jinja environment of chat templates: transformers' dialect inside metered walls.

Takes template source, gives compiled templates. The dialect is what
transformers' `apply_chat_template` offers: trimmed blocks, `break`/`continue`,
`{% generation %}`, plain `tojson`, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.utils import Namespace

from csaq_runtime.errors import TemplateError
from csaq_runtime.template import guards
from csaq_runtime.template.budget import metered, size, spend
from csaq_runtime.template.meters import Meters, meter_filters

_FILTERS = (
    *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first"),
    *("float", "format", "groupby", "indent", "int", "items", "join", "last", "length", "list"),
    *("lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round"),
    *("safe", "select", "selectattr", "sort", "string", "sum", "title", "trim", "truncate"),
    *("tojson", "unique", "upper"),
)


class ChatNamespace(Namespace):
    """`namespace()` without underscore names, which could reach Python's internals."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise TemplateError(f"chat template: the name {name!r} is not allowed")
        super().__setitem__(name, value)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}`: marks the reply for training, renders as is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        """The body, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """An immutable sandbox in which loops, calls, operators, filters and output are metered."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(guards.join)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, loopcontrols],
            finalize=guards.printed,
            optimized=False,
        )
        known = self.filters | {"tojson": _to_json}
        filters = {name: guards.guarded_filter(name, known[name]) for name in _FILTERS}
        self.filters = filters | meter_filters()
        tests: dict[str, Any] = dict(self.tests)
        self.tests = {name: guards.guarded_test(test) for name, test in tests.items()}
        self.globals = {
            "range": self.globals["range"],
            "dict": _dict,
            "namespace": ChatNamespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = Meters().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An intercepted operator, charged first."""
        guards.charge_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        """A call written in a template; methods of built-in types are charged first."""
        spend().step()
        args = tuple(guards.listed(value) for value in args)
        if isinstance(__obj, BuiltinMethodType):
            guards.charge_method(__obj.__self__, __obj.__name__, (*args, *named.values()))
        if isinstance(__obj, LoopContext):
            args = (list(metered(args[0])), *args[1:])
        return SandboxedEnvironment.call(__self, __context, __obj, *args, **named)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`; hashing a nested tuple is charged."""
        return super().getitem(obj, guards.compared(argument))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`'…'.format` and `.format_map`, bound to the metered formatter."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **named: Any) -> str:
            spend().grow(len(text))
            given: tuple[Any, Any] = ((), args[0]) if is_map else (args, named)
            return guards.MeteredFormatter(self).vformat(text, *given)

        return formatted


def _dict(*args: Any, **named: Any) -> dict[Any, Any]:
    """`dict(…)`: the class itself would bring its unbound, mutating methods."""
    spend().grow(16 * sum(guards.places(value) for value in args))
    return dict(*args, **named)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML escapes, as transformers writes it."""
    width = indent or 0
    if width > 16 or len("".join(separators or ())) > 16:
        raise TemplateError("chat template: tojson with an unusual indent or separators")
    spend().grow(size(value) * (1 + 8 * width))
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> None:
    raise TemplateError(f"chat template: {' '.join(str(message).split())[:500]}")


def _strftime_now(format: str) -> str:
    # C libraries read digits as a width, and pad without a limit.
    if len(format) > 200 or any(character.isdigit() for character in format):
        raise TemplateError("chat template: strftime_now with digits or a very long format")
    return datetime.now().strftime(format)
