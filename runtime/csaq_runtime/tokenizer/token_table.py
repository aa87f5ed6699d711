"""The vocabulary's raw lists (`tokenizer.ggml.{tokens,scores,token_type}`), checked together.

Everything later indexes these lists by token id without further checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from csaq_runtime.errors import TokenizerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from csaq_runtime.gguf import GGUFFile

TOKENS = "tokenizer.ggml.tokens"
SCORES = "tokenizer.ggml.scores"
TYPES = "tokenizer.ggml.token_type"


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, numbered as in llama.h."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class TokenTable:
    """Token id → text, score (log probability) and type; `ids` is the way back from text."""

    texts: list[str]
    scores: list[float]
    types: list[int]
    ids: dict[str, int]

    def __len__(self) -> int:
        return len(self.texts)


def read_token_table(file: GGUFFile) -> TokenTable:
    """Read and cross-check the token lists; TokenizerError names the key that is wrong."""
    texts = _texts(file)
    ids = dict(zip(texts, range(len(texts)), strict=True))
    if len(ids) != len(texts):
        raise TokenizerError(f"{file.path}: {TOKENS}: {_duplicate(texts, ids)}")
    return TokenTable(texts, _scores(file, len(texts)), _types(file, texts), ids)


def byte_value(text: str) -> int | None:
    """The byte that a byte token `<0xNN>` stands for; None for any other text."""
    if len(text) != 6 or not text.startswith("<0x") or text[5] != ">":
        return None
    digits = text[3:5]
    return int(digits, 16) if all(c in "0123456789ABCDEFabcdef" for c in digits) else None


def _texts(file: GGUFFile) -> list[str]:
    texts = file.texts(TOKENS)
    if not texts:
        raise TokenizerError(f"{file.path}: {TOKENS}: the vocabulary is empty")
    if "" in texts:
        # llama.cpp renames empty tokens, so that every text stays unique.
        texts = [text or f"[EMPTY_{id}]" for id, text in enumerate(texts)]
    return texts


def _duplicate(texts: list[str], ids: dict[str, int]) -> str:
    first = next(id for id, text in enumerate(texts) if ids[text] != id)
    return f"tokens {first} and {ids[texts[first]]} are both {texts[first]!r}"


def _scores(file: GGUFFile, n_vocab: int) -> list[float]:
    if SCORES not in file.metadata:
        return [0.0] * n_vocab
    scores: list[float] = _same_length(file, SCORES, file.numbers(SCORES), n_vocab).tolist()
    return scores


def _types(file: GGUFFile, texts: list[str]) -> list[int]:
    if TYPES not in file.metadata:
        return [int(TokenType.NORMAL)] * len(texts)
    types = _same_length(file, TYPES, file.integers(TYPES), len(texts))
    for id in np.flatnonzero((types < 0) | (types > max(TokenType))):
        raise TokenizerError(f"{file.path}: {TYPES}: token {id} has type {types[id]}, not 0…6")
    for id in np.flatnonzero(types == TokenType.BYTE):
        if byte_value(texts[id]) is None:
            reason = f"byte token {id} is {texts[id]!r}, not <0x00>…<0xFF>"
            raise TokenizerError(f"{file.path}: {TOKENS}: {reason}")
    known: list[int] = types.tolist()
    return known


def _same_length(file: GGUFFile, key: str, values: NDArray[Any], n_vocab: int) -> NDArray[Any]:
    if len(values) != n_vocab:
        raise TokenizerError(f"{file.path}: {key}: {len(values)} entries for {n_vocab} tokens")
    return values
