"""Plain text → ids for `tokenizer.ggml.model = llama`: SentencePiece BPE driven by token scores.

Algorithm: repeatedly join the neighbouring pair whose concatenation is the
token of highest score, leftmost first; what is no token in the end becomes
bytes (llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_spm_session`). The
`tokenizers` library cannot express this exactly: its merge ranks break score
ties by rule instead of by position, and need both halves to be tokens.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable
from functools import lru_cache

from csaq_runtime.errors import TokenizerError
from csaq_runtime.tokenizer.token_table import TokenTable, byte_value

SPACE = "▁"
_WORDS_CACHED = 65_536


def sentencepiece_encoder(table: TokenTable, path: object) -> Callable[[str], list[int]]:
    """An encoder of text whose spaces are already `▁`; TokenizerError where bytes have no token."""
    cut = _word_boundary(table)
    byte_ids = _byte_ids(table)

    @lru_cache(maxsize=_WORDS_CACHED)
    def word_ids(word: str) -> tuple[int, ...]:
        return tuple(id for symbol in _merge(word, table) for id in symbol_ids(symbol))

    def symbol_ids(symbol: str) -> list[int]:
        if symbol in table.ids:
            return [table.ids[symbol]]
        missing = [byte for byte in symbol.encode() if byte not in byte_ids]
        if missing:
            reason = f"no token for the byte 0x{missing[0]:02X} of {symbol!r}"
            raise TokenizerError(f"{path}: tokenizer.ggml.tokens: {reason}")
        return [byte_ids[byte] for byte in symbol.encode()]

    return lambda text: [id for word in cut.split(text) if word for id in word_ids(word)]


def _byte_ids(table: TokenTable) -> dict[int, int]:
    """Byte → id of its token `<0xNN>`, or of the ASCII character itself."""
    plain = {byte: table.ids[chr(byte)] for byte in range(128) if chr(byte) in table.ids}
    named = {
        value: id
        for text, id in table.ids.items()
        if (value := byte_value(text)) is not None and text == f"<0x{value:02X}>"
    }
    return plain | named


def _word_boundary(table: TokenTable) -> re.Pattern[str]:
    """Matches the empty places where a text may be cut without changing its ids.

    A merge across `x▁` needs a token that contains `x▁`; where no token does,
    both sides are independent. Short words are then cached, which makes the
    Python loop below fast on real text.
    """
    glued = {
        text[at - 1]
        for text in table.texts
        if SPACE in text
        for at in range(1, len(text))
        if text[at] == SPACE
    }
    kept = "".join(re.escape(character) for character in sorted(glued | {SPACE}))
    return re.compile(f"(?<=[^{kept}])(?={SPACE})")


def _merge(word: str, table: TokenTable) -> list[str]:
    """The symbols that are left when no neighbouring pair joins into a token any more."""
    symbols: list[str] = list(word)
    left = list(range(-1, len(symbols) - 1))
    right = [*range(1, len(symbols)), -1]
    queue: list[tuple[float, int, int, str]] = []

    def offer(first: int, second: int) -> None:
        if first >= 0 and second >= 0:
            pair = symbols[first] + symbols[second]
            if pair in table.ids:
                score = table.scores[table.ids[pair]]
                heapq.heappush(queue, (-score, first, second, pair))

    for at in range(1, len(symbols)):
        offer(at - 1, at)
    while queue:
        _, first, second, pair = heapq.heappop(queue)
        if not symbols[first] or not symbols[second] or symbols[first] + symbols[second] != pair:
            continue
        symbols[first], symbols[second] = pair, ""
        right[first] = right[second]
        if right[second] >= 0:
            left[right[second]] = first
        offer(left[first], first)
        offer(first, right[first])
    return [symbol for symbol in symbols if symbol]
