"""How far a model is loaded: one line on a terminal's standard error, gone when it is done."""

import sys
from collections.abc import Callable

CLEAR_LINE = "\r\x1b[K"


def loading_line(quiet: bool) -> Callable[[int, int], None] | None:
    """The callback for `Engine.open`, or None where nobody watches."""
    return None if quiet or not sys.stderr.isatty() else _show


def _show(done_bytes: int, total_bytes: int) -> None:
    percent = 100 * done_bytes // max(total_bytes, 1)
    text = f"{CLEAR_LINE}loading {percent} %" if done_bytes < total_bytes else CLEAR_LINE
    print(text, end="", file=sys.stderr, flush=True)
