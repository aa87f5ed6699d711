"""Meters woven into a template's syntax tree, where Jinja offers no hook of its own.

Takes the parsed tree, gives the same tree with loops, `~`, comparisons, slices
and literals passing through filters whose names no template can write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from csaq_runtime.template import guards
from csaq_runtime.template.budget import metered, spend

# Names with a space can neither be written nor replaced by a template.
_LOOP, _CONCAT, _COMPARE, _COPY = (
    f"metered {what}" for what in ("loop", "concat", "compare", "copy")
)


class Meters(NodeTransformer):
    """Wraps every construct that repeats, copies or walks what it is given."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """Loops: one step a turn."""
        self.generic_visit(node)
        node.iter = _filtered(cast(nodes.Expr, node.iter), _LOOP)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """Comparisons walk containers."""
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _COMPARE)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, _COMPARE)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """Hashing a key walks it."""
        self.generic_visit(node)
        node.key = _filtered(node.key, _COMPARE)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b`."""
        self.generic_visit(node)
        return _filtered(nodes.List(list(node.nodes), lineno=node.lineno), _CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """Slices copy."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, _COPY)
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        """A literal makes a new list every time."""
        self.generic_visit(node)
        return _filtered(node, _COPY)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        """A literal makes a new mapping every time."""
        self.generic_visit(node)
        return _filtered(node, _COPY)


def meter_filters() -> dict[str, Callable[[Any], Any]]:
    """The filters that the woven nodes name."""
    return {_LOOP: metered, _CONCAT: _concat, _COMPARE: guards.compared, _COPY: _copied}


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _concat(values: Iterable[Any]) -> str:
    return guards.join(str(guards.printed(value)) for value in values)


def _copied(value: Any) -> Any:
    spend().grow(guards.places(value))
    return value
