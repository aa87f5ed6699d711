"""Text → pieces of plain text and special-token ids, before any merging takes place.

llama.cpp's order (`tokenizer_st_partition`): the longest special token is cut
out everywhere first, then the next. A leftmost match, as the `tokenizers`
library would do, gives other ids where special tokens overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from csaq_runtime.tokenizer.token_table import TokenTable, TokenType

_ALWAYS = {TokenType.USER_DEFINED}
_PARSED = {TokenType.CONTROL, TokenType.UNKNOWN}
_SPACE = " \t\n\v\f\r"


@dataclass(frozen=True)
class SpecialText:
    """A special token as it appears in text; `parsed_only` ones count only on request."""

    id: int
    text: str
    parsed_only: bool
    eats_space: bool


def special_texts(table: TokenTable, types: list[int], model_name: str) -> list[SpecialText]:
    """Every token that is matched as a whole, longest UTF-8 text first.

    `model_name` is `general.name`: Phi-3's special tokens swallow the white
    space behind them, and nothing but the name tells (llama.cpp does the same).
    """
    phi3 = any(name in model_name.lower() for name in ("phi-3", "phi3"))
    keeps_space = {"<unk>", "<s>", "<|endoftext|>"}
    whole = _ALWAYS | _PARSED
    matched = [(id, table.texts[id]) for id, kind in enumerate(types) if kind in whole]
    found = [
        SpecialText(id, text, types[id] in _PARSED, phi3 and text not in keeps_space)
        for id, text in matched
    ]
    return sorted(found, key=lambda special: -len(special.text.encode("utf-8", "replace")))


def partition(text: str, specials: list[SpecialText], parse_special: bool) -> list[str | int]:
    """Cut `text` at special tokens: plain text stays str, special tokens become ids."""
    pieces: list[str | int] = [text] if text else []
    for special in specials:
        if special.text in text and (parse_special or not special.parsed_only):
            pieces = [part for piece in pieces for part in _cut(piece, special)]
    return pieces


def _cut(piece: str | int, special: SpecialText) -> Iterator[str | int]:
    if isinstance(piece, int):
        yield piece
        return
    first, *rest = piece.split(special.text)
    if first:
        yield first
    for part in rest:
        yield special.id
        part = part.lstrip(_SPACE) if special.eats_space else part
        if part:
            yield part
