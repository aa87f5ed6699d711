"""How far a model is loaded: one line on a terminal's standard error, gone when it is done."""

import sys
from collections.abc import Callable

CLEAR_LINE = "\r\x1b[K"
NOTE = "(the first time, kernels are compiled for this processor)"


def loading_line(quiet: bool) -> Callable[[int, int], None] | None:
    """The callback for `Engine.open`, or None where nobody watches."""
    if quiet or not sys.stderr.isatty():
        return None
    _show(0, 1)
    return _show


def _show(done_bytes: int, total_bytes: int) -> None:
    percent = 100 * done_bytes // max(total_bytes, 1)
    _print(f"loading {percent} % {NOTE}" if done_bytes < total_bytes else "")


def _print(text: str) -> None:
    print(f"{CLEAR_LINE}{text}", end="", file=sys.stderr, flush=True)
