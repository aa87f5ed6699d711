"""Token ids → text: bytes per token, and a stream that only ever shows complete characters."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from csaq_runtime.tokenizer.byte_alphabet import BYTE_OF
from csaq_runtime.tokenizer.token_table import TokenTable, TokenType, byte_value

_HIDDEN = {TokenType.CONTROL, TokenType.UNKNOWN}
_SILENT = {TokenType.UNUSED, TokenType.UNDEFINED}


class Detokenizer:
    """Turns a stream of ids into text; bytes wait until their character is complete.

    Like llama.cpp's server and cli it keeps the leading space of a first
    SentencePiece token: a stream continues a text that is already there.
    """

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        self._piece = piece
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Text completed by token `id`; may be empty."""
        return self._decoder.decode(self._piece(id))

    def flush(self) -> str:
        """The rest at the end of a stream: U+FFFD where a character stayed incomplete."""
        return self._decoder.decode(b"", final=True)


def piece_bytes(table: TokenTable, types: list[int], spaces: bool, id: int) -> bytes:
    """UTF-8 bytes (maybe a fragment of a character) of token `id`, special tokens included.

    `spaces`: `▁` means a space (SentencePiece); otherwise the text is in the
    byte alphabet of byte-level BPE.
    """
    text, type = table.texts[id], types[id]
    if type in _SILENT:
        return b""
    if type == TokenType.BYTE:
        return bytes([byte_value(text) or 0])
    if type == TokenType.NORMAL:
        return text.replace("▁", " ").encode() if spaces else _from_alphabet(text)
    return text.encode()


def is_hidden(type: int) -> bool:
    """True for control and unknown tokens, which are no text for a reader."""
    return type in _HIDDEN


def _from_alphabet(text: str) -> bytes:
    # A token outside the byte alphabet (an added word) stands for itself.
    values = [BYTE_OF.get(character) for character in text]
    known = [value for value in values if value is not None]
    return bytes(known) if len(known) == len(values) else text.encode()
