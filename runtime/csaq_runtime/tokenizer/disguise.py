"""Text from strangers inside a prompt: control tokens that it spells out stay text.

`prompt.py` hides before a chat template is rendered and the vocabulary reveals after it has cut
the rendered prompt at control tokens: only the template itself can have written those.
A character is hidden behind a private one of equal length, so templates that trim, measure or
search their messages still work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What a template makes into control tokens on purpose (`'<|' + role + '|>'`).
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_PRIVATE = range(0xF0000, 0xFFFFE)  # plane 15: no assigned characters


@dataclass(frozen=True)
class Fragments:
    """Texts of control tokens, and their proper beginnings and ends.

    Parts of one message are joined by templates: a beginning that ends one
    part would become a control token with the end that begins the next.
    """

    wholes: tuple[str, ...]
    beginnings: frozenset[str]
    ends: frozenset[str]

    def places(self, text: str) -> Iterator[int]:
        """Positions in `text` of which each must be hidden."""
        for whole in self.wholes:
            at = text.find(whole)
            while at >= 0:
                yield at
                at = text.find(whole, at + 1)
        longest = max(map(len, self.wholes), default=0)
        # Templates trim white space, so what it surrounds counts as the edge.
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        if any(text[first : first + n] in self.ends for n in range(1, longest)):
            yield first
        yield from (at for at in _tail(first, last, longest) if text[at:last] in self.beginnings)


def _tail(first: int, last: int, longest: int) -> range:
    return range(max(first, last - longest + 1), last)


def fragments_of(controls: Iterable[str]) -> Fragments:
    """The fragments of `controls`, the texts of all control tokens."""
    wholes = tuple(text for text in controls if text)
    cuts = [(text[:at], text[at:]) for text in wholes for at in range(1, len(text))]
    beginnings, ends = (frozenset(cut[side] for cut in cuts) for side in (0, 1))
    return Fragments(wholes, beginnings, ends)


@dataclass(frozen=True)
class Disguise:
    """The private characters of one prompt: real character → stand-in, both as code points."""

    fragments: Fragments
    stand_ins: Mapping[int, int]

    def hide(self, value: Any) -> Any:
        """A copy of `value` (JSON's types) in which no text can become a control token."""
        if isinstance(value, str):
            return self._hidden(value)
        if isinstance(value, Mapping):
            return {
                self.hide(key): item if _is_role(key, item) else self.hide(item)
                for key, item in value.items()
            }
        return [self.hide(item) for item in value] if isinstance(value, (list, tuple)) else value

    def reveal(self, text: str) -> str:
        """`text` with the real characters."""
        return text.translate({stand_in: real for real, stand_in in self.stand_ins.items()})

    def _hidden(self, text: str) -> str:
        places = set(self.fragments.places(text))
        if not places:
            return text
        letters = list(text)
        for at in places:
            letters[at] = letters[at].translate(self.stand_ins)
        return "".join(letters)


def disguise_for(fragments: Fragments, values: Any) -> Disguise:
    """A disguise whose private characters do not occur in `values` (nested JSON's types)."""
    taken: set[str] = set().union(*_texts(values))
    free = (code for code in _PRIVATE if chr(code) not in taken)
    real = sorted({ord(letter) for whole in fragments.wholes for letter in whole})
    return Disguise(fragments, dict(zip(real, free, strict=False)))


def _is_role(key: Any, value: Any) -> bool:
    return key == "role" and isinstance(value, str) and value in _ROLES


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (*_texts(key), *_texts(item))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
