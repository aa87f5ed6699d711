"""Messages of several lines: everything between two `\"\"\"` is one message."""

from collections.abc import Callable

FENCE = '"""'


def read_message(read_line: Callable[[bool], str]) -> str:
    """One message; `read_line(continuation)` gives its lines, EOFError passes through."""
    line = read_line(False)
    if not line.lstrip().startswith(FENCE):
        return line.strip()
    text = line.lstrip().removeprefix(FENCE)
    while FENCE not in text:
        text += "\n" + read_line(True)
    return text[: text.index(FENCE)].strip("\n")
