"""Sizes of the operations with which a template can build much from little.

Used by the sandbox for operators, filters and methods of strings; every
function charges the budget first and then does, or lets do, the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from string import Formatter
from typing import Any

from jinja2.sandbox import SandboxedFormatter

from csaq_runtime.errors import TemplateError
from csaq_runtime.template.budget import check_integer, metered, size, spend

# No chat template pads or rounds to more; larger numbers are attacks.
_WIDTH = 1000
_WIDE_FORMAT = re.compile(r"\d{4,}|%[-+ #0]*\*|\.\*")


def join(parts: Iterable[str]) -> str:
    """Concatenate what a template puts out, bounded."""
    kept: list[str] = []
    for part in parts:
        spend().grow(len(part))
        kept.append(part)
    return "".join(kept)


def charge_operator(operator: str, left: Any, right: Any) -> None:
    """Charge `left operator right` for `+ * ** %`."""
    if operator == "**":
        _charge_power(left, right)
    elif operator == "%" and isinstance(left, str):
        charge_format(left, right)
    elif operator == "*":
        _charge_product(left, right)
    elif operator == "+" and not isinstance(left, (int, float)):
        spend().grow(places(left) + places(right))
    spend().step()


def charge_format(template: str, values: Any) -> None:
    """Charge `template % values`; widths of four digits and `*` are refused."""
    if _WIDE_FORMAT.search(template):
        raise TemplateError("chat template: a format with a width over 999")
    spend().grow(len(template) + template.count("%") * (_WIDTH + size(values)))


def charge_filter(name: str, value: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Charge filter `name` applied to `value` with its arguments."""
    if name in _UNSIZED:
        return
    if name == "format" and isinstance(value, str):
        charge_format(value, [*args, *named.values()])
    elif name == "replace":
        old, new = _argument(args, named, 0, "old", ""), _argument(args, named, 1, "new", "")
        _charge_replace(str(value), str(old), str(new))
    elif name == "join":
        charge_join(_argument(args, named, 0, "d", ""), value)
    elif name == "indent":
        charge_indent(str(value), _argument(args, named, 0, "width", 4))
    elif name == "sum" and isinstance(_argument(args, named, 1, "start", 0), (list, tuple)):
        raise TemplateError("chat template: sum of lists")
    else:
        in_python = isinstance(value, str) and name not in _FAST
        spend().grow(size(value) * (_PYTHON_COST if in_python else 1))


def _argument(
    args: tuple[Any, ...], named: Mapping[str, Any], at: int, name: str, default: Any
) -> Any:
    return args[at] if len(args) > at else named.get(name, default)


def charge_method(owner: Any, name: str, arguments: tuple[Any, ...]) -> None:
    """Charge the call of a built-in method `name` of `owner`."""
    if name in ("translate", "expandtabs"):
        raise TemplateError(f"chat template: {name} is not offered")
    if isinstance(owner, (str, int)) and any(_wide(value) for value in arguments):
        raise TemplateError(f"chat template: a width over {_WIDTH} in {name}")
    if not isinstance(owner, str):
        spend().grow(places(owner))
    elif name == "replace" and len(arguments) >= 2:
        _charge_replace(owner, *arguments[:2])
    elif name == "join" and arguments:
        charge_join(owner, arguments[0])
    else:
        # A list takes several times the memory of the text it was split from.
        spend().grow(len(owner) * (8 if "split" in name else 1))


def charge_join(separator: Any, items: Any) -> None:
    """Charge joining `items`; iterators without a length are read later, by the step."""
    if isinstance(items, (list, tuple, Mapping, str)):
        count = len(items)
        spend().grow(size(items) + count * len(str(separator)))


def charge_indent(text: str, width: Any) -> None:
    """Charge indenting every line by a width or a prefix string."""
    each = len(width) if isinstance(width, str) else int(width)
    spend().grow(len(text) + (1 + len(text.splitlines())) * each)


def listed(value: Any) -> Any:
    """Lazy sequences (generators of `map`, `select`) as lists, so that they can be sized."""
    lazy = hasattr(value, "__next__")
    return list(metered(value)) if lazy else value


def guarded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, charged before it runs; keeps jinja's marks (`pass_context` and the like)."""
    # A marked filter is handed the context, evaluation context or environment first.
    at = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **named: Any) -> Any:
        value = listed(args[at]) if len(args) > at else named.get("value")
        charge_filter(name, value, args[at + 1 :], named)
        return function(*args[:at], value, *args[at + 1 :], **named)

    return guarded


def guarded_test(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` (a test such as `eq`), charged for walking what it compares."""

    @wraps(function)
    def guarded(*args: Any, **named: Any) -> Any:
        for value in (*args, *named.values()):
            compared(value)
        return function(*args, **named)

    return guarded


def compared(value: Any) -> Any:
    """`value`, charged for being walked by a comparison or a search."""
    if isinstance(value, str):
        spend().step(1 + len(value) // 1000)
    elif isinstance(value, (list, tuple, Mapping)):
        size(value)
    return value


def printed(value: Any) -> Any:
    """`value` on its way to the output, charged for its length."""
    spend().grow(size(value))
    return value


class MeteredFormatter(SandboxedFormatter):
    """`str.format` inside the sandbox: every field is charged, wide ones are refused."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One field; TemplateError for widths or precisions over 999."""
        if _WIDE_FORMAT.search(format_spec):
            raise TemplateError("chat template: a format with a width over 999")
        spend().grow(_WIDTH + size(value))
        return Formatter.format_field(self, value, format_spec)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """`!r`, `!s`, `!a`: charged like printing."""
        spend().grow(size(value))
        return Formatter.convert_field(self, value, conversion)


# Filters on text that run in C; the others may walk it letter by letter in Python.
_FAST = {"upper", "lower", "trim", "capitalize", "string", "safe", "e", "escape", "tojson"}
_PYTHON_COST = 16
# Filters that only look, so their input need not be sized again and again.
_UNSIZED = {"length", "count", "first", "last", "default", "d", "items", "attr", "int", "float"}


def places(value: Any) -> int:
    """Entries that a copy of `value` would hold."""
    return len(value) if isinstance(value, (str, bytes, list, tuple, range, Mapping)) else 1


def _wide(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > _WIDTH


def _charge_replace(text: str, old: Any = "", new: Any = "") -> None:
    growth = max(0, len(str(new)) - len(str(old)))
    spend().grow(len(text) + (text.count(str(old)) * growth if growth else 0))


def _charge_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and right > 0:
        check_integer(left.bit_length() * right)


def _charge_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        check_integer(left.bit_length() + right.bit_length())
    elif isinstance(right, int):
        spend().grow(places(left) * max(0, right))
    elif isinstance(left, int):
        spend().grow(places(right) * max(0, left))
