"""A reply's text as it comes → the same text, readable on a terminal: Markdown and reasoning.

Marks are held back until it is certain what they are, everything else goes out at once.
Reasoning is dim, headings and `**strong**` are bold, code is coloured; the marks of those are left
out, except around code blocks. Without colors the text stays as it is.
"""

import re

RESET, BOLD, DIM, CODE, HEADING = "\x1b[0m", "1", "2", "36", "1;4"
REASONING = {"<think>": True, "</think>": False}
FENCE = "```"
# What begins a line may be a heading or a fence; inside a line, what may be a mark or its start.
_HEADING = re.compile(r"#{1,6} ")
_MARK = re.compile(r"</?think>|\*\*|`")
_LINE_STARTS = (FENCE, "###### ")
_INLINE_STARTS = ("<think>", "</think>", "**", "`")


class Styler:
    """The state between two pieces: text held back and the styles that are on.

    `reasoning`: the prompt has opened the reasoning already, as some templates do.
    """

    def __init__(self, reasoning: bool = False) -> None:
        self._held = ""
        self._reasoning = reasoning
        self._block = self._heading = self._strong = self._code = False
        self._line_start = True
        self._shown = ""

    def push(self, text: str) -> str:
        """What can be shown once `text` is there."""
        self._held += text
        out = []
        while self._held and (taken := self._take()) is not None:
            out.append(taken)
        return "".join(out)

    def flush(self) -> str:
        """The rest, and the styles off."""
        rest, self._held = self._held, ""
        self._reasoning = self._block = self._heading = self._strong = self._code = False
        return self._show(rest) + self._switch()

    def _take(self) -> str | None:
        """Remove one unit from the held text and return what it shows; None to wait for more."""
        if self._line_start:
            return self._take_line_start()
        end = self._held.find("\n")
        line = self._held if end < 0 else self._held[:end]
        if self._block or not line:
            return self._take_text(len(line)) if line else self._take_newline()
        mark = _MARK.search(line)
        if mark is None:
            n = len(line) if end >= 0 else _certain(line, _INLINE_STARTS)
            return self._take_text(n) if n else None
        if mark.start():
            return self._take_text(mark.start())
        if mark[0] == "**" and not self._strong and end < 0 and len(line) == 2:
            return None  # whether it opens anything shows in what follows
        return self._take_mark(mark[0])

    def _take_line_start(self) -> str | None:
        held = self._held
        if any(start != held and start.startswith(held) for start in _LINE_STARTS):
            return None
        self._line_start = False
        if held.startswith(FENCE):
            self._block = not self._block
            fence = FENCE if self._block else self._held[: len(FENCE)]
            self._held = held[len(FENCE) :]
            return self._show(fence)
        if not self._block and (heading := _HEADING.match(held)):
            self._heading = True
            self._held = held[heading.end() :]
        return ""

    def _take_text(self, n: int) -> str:
        text, self._held = self._held[:n], self._held[n:]
        return self._show(text)

    def _take_newline(self) -> str:
        self._held = self._held[1:]
        self._heading = self._strong = self._code = False
        self._line_start = True
        return self._switch() + "\n"

    def _take_mark(self, mark: str) -> str:
        following = self._held[len(mark) : len(mark) + 1]
        self._held = self._held[len(mark) :]
        if mark in REASONING:
            self._reasoning = REASONING[mark]
        elif mark == "`":
            self._code = not self._code
        elif self._code or not (self._strong or following.strip()):
            return self._show(mark)
        else:
            self._strong = not self._strong
        return ""

    def _show(self, text: str) -> str:
        return self._switch() + text if text else ""

    def _switch(self) -> str:
        """The codes that lead from the styles shown to those that are on."""
        styles = [
            style
            for on, style in (
                (self._reasoning, DIM),
                (self._heading, HEADING),
                (self._strong, BOLD),
                (self._code or self._block, CODE),
            )
            if on
        ]
        wanted = f"\x1b[{';'.join(styles)}m" if styles else ""
        if wanted == self._shown:
            return ""
        before, self._shown = self._shown, wanted
        return (RESET if before else "") + wanted


def _certain(line: str, starts: tuple[str, ...]) -> int:
    """Length of `line` without an end that may be the beginning of a mark."""
    longest = max(map(len, starts))
    for n in range(min(longest - 1, len(line)), 0, -1):
        if any(start.startswith(line[-n:]) for start in starts):
            return len(line) - n
    return len(line)
