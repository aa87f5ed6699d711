"""What one rendering may use: time, steps and characters, charged before they are spent.

A template runs in this process and Python cannot stop `'a' * 2**33` half-way,
so every operation that can grow announces its size here first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from csaq_runtime.errors import TemplateError

SECONDS = 2.0
STEPS = 1_000_000
CHARACTERS = 2**25
_INT_BITS = 4096
_CLOCK_EVERY = 64
_LARGE = 10_000
_DEPTH = 64


class Budget:
    """Counts down steps (loop turns, calls, list items) and characters built."""

    def __init__(self) -> None:
        self.steps, self.characters = STEPS, CHARACTERS
        self.deadline = time.monotonic() + SECONDS

    def step(self, count: int = 1) -> None:
        """Spend `count` steps; TemplateError when steps or time run out."""
        before, self.steps = self.steps, self.steps - count
        if self.steps < 0:
            raise TemplateError(f"chat template: more than {STEPS} steps")
        if before // _CLOCK_EVERY != self.steps // _CLOCK_EVERY:
            self._look_at_the_clock()

    def grow(self, count: int) -> None:
        """Spend `count` characters (or list places); TemplateError when they run out."""
        self.step()
        if count > _LARGE:
            self._look_at_the_clock()
        self.characters -= count
        if self.characters < 0:
            raise TemplateError(f"chat template: builds more than {CHARACTERS} characters")

    def _look_at_the_clock(self) -> None:
        if time.monotonic() > self.deadline:
            raise TemplateError(f"chat template: takes more than {SECONDS:g} s")


_current: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def budget() -> Iterator[Budget]:
    """A fresh budget for what runs inside the `with` block, in this thread."""
    fresh = Budget()
    token = _current.set(fresh)
    try:
        yield fresh
    finally:
        _current.reset(token)


def spend() -> Budget:
    """The budget of the rendering that is under way."""
    return _current.get()


def check_integer(bits: int) -> None:
    """TemplateError for an integer result of more than 4096 bits."""
    if bits > _INT_BITS:
        raise TemplateError(f"chat template: an integer of {bits} bits")


def metered(items: Iterable[Any]) -> Iterator[Any]:
    """`items`, one step each."""
    for item in items:
        spend().step()
        yield item


def size(value: Any, depth: int = 0) -> int:
    """Upper bound of the characters that `value` prints as; walking containers costs steps.

    Nested lists can share parts and so print exponentially longer than they
    are stored: the walk is charged, so it stops in time.
    """
    spend().step()
    if depth > _DEPTH:
        raise TemplateError(f"chat template: values nested more than {_DEPTH} deep")
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    if isinstance(value, range):
        return 8 * len(value)
    if isinstance(value, Mapping):
        return sum(4 + size(key, depth + 1) + size(value[key], depth + 1) for key in value)
    if isinstance(value, (list, tuple)):
        return sum(4 + size(item, depth + 1) for item in value)
    return 64
