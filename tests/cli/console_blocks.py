"""The ```console blocks of README.md and docs/*.md: pages → commands as a reader types them."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """One block: where it begins and its command lines, in order, without prompt and output."""

    page: str
    line: int
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Pipeline:
    """`words` of each program of `a | b > target`, comments gone."""

    programs: tuple[tuple[str, ...], ...]
    target: str | None


def console_blocks(page: Path) -> Iterator[Block]:
    fence, first, lines = "", 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```") and not fence:
            fence, first, lines = line, number, []
        elif line.startswith("```"):
            if fence == "```console":
                yield Block(page.name, first, tuple(_commands(lines)))
            fence = ""
        else:
            lines.append(line)


def _commands(lines: list[str]) -> Iterator[str]:
    """Lines that begin with `$ `; a backslash at the end goes on with the next."""
    rest = iter(lines)
    for line in rest:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(rest)
            yield command


def parse(command: str) -> Pipeline:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    programs: list[list[str]] = [[]]
    target = None
    words = iter(lexer)
    for word in words:
        if word == "|":
            programs.append([])
        elif word == ">":
            target = next(words)
        else:
            programs[-1].append(word)
    return Pipeline(tuple(map(tuple, programs)), target)
