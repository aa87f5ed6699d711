"""Plain text → ids for `tokenizer.ggml.model = gpt2`: byte-level BPE by the `tokenizers` library.

The merge list is checked here, because the library reports a bad one as a
bare exception long after the key that caused it is known. The library takes a quarter of a
second for 150,000 tokens; the first short texts meet only those that are in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from csaq_runtime.errors import TokenizerError
from csaq_runtime.tokenizer.byte_alphabet import BYTE_OF
from csaq_runtime.tokenizer.pre_tokenizers import PreTokenizer
from csaq_runtime.tokenizer.token_table import TokenTable

if TYPE_CHECKING:
    from tokenizers import Tokenizer, pre_tokenizers

    from csaq_runtime.gguf import GGUFFile

MERGES = "tokenizer.ggml.merges"

SHORT_TEXT = 512
"""Characters up to which a text is encoded with a part of the vocabulary …"""

ALL_SHORT = 4096
"""… and of all such texts, before the whole vocabulary is worth its time."""

LEAST_SHORT = 32
"""Characters that a shorter text counts as: all rules are looked through for each text."""


def byte_bpe_encoder(
    file: GGUFFile, table: TokenTable, pre: PreTokenizer
) -> Callable[[str], list[int]]:
    """An encoder of plain text; TokenizerError names a merge that does not fit the tokens."""
    rules = file.texts(MERGES)
    _check_merges(file, table.ids, rules)
    return _Encoder(table, rules, pre).encode


def _check_merges(file: GGUFFile, ids: Mapping[str, int], rules: list[str]) -> None:
    """Every half and every product is a token."""
    if _are_merges(ids, rules):
        return
    rule = next(rule for rule in rules if not _are_merges(ids, [rule]))
    reason = f"rule {rule!r} is not two tokens that make a third"
    raise TokenizerError(f"{file.path}: {MERGES}: {reason}")


def _are_merges(ids: Mapping[str, int], rules: Iterable[str]) -> bool:
    """Halves recur, so they are looked up once each."""
    halves: set[str] = set()
    for rule in rules:
        first, _, second = rule.partition(" ")
        if first + second not in ids:
            return False
        halves.add(first)
        halves.add(second)
    return halves <= ids.keys()


class _Encoder:
    """The whole vocabulary in the library, once it is worth its time; until then parts of it."""

    def __init__(self, table: TokenTable, rules: list[str], pre: PreTokenizer) -> None:
        self._ids, self._rules, self._pre = table.ids, rules, pre
        self._n_vocab, self._n_left = len(table), ALL_SHORT
        # Now, while weights are packed: it imports the library.
        self._words = _splitter(pre)

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text."""
        self._n_left -= max(len(text), LEAST_SHORT)
        is_short = len(text) <= SHORT_TEXT and self._n_left >= 0
        tokenizer = self._part(text) if is_short else self._whole
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        n = self._n_vocab
        return ids if not ids or max(ids) < n else [id for id in ids if id < n]

    @cached_property
    def _whole(self) -> Tokenizer:
        return self._tokenizer(self._ids, self._rules)

    def _part(self, text: str) -> Tokenizer:
        """Tokens that occur in the words of `text`, and all rules that make one of them."""
        words = (word for word, _ in self._words.pre_tokenize_str(text))
        ids = {piece: self._ids[piece] for piece in self._pieces(set(words))}
        rules = {f"{piece[:at]} {piece[at:]}" for piece in ids for at in range(1, len(piece))}
        return self._tokenizer(ids, filter(rules.__contains__, self._rules))

    def _pieces(self, words: Iterable[str]) -> set[str]:
        longest = self._longest
        return {
            piece
            for word in words
            for start in range(len(word))
            for stop in range(start + 1, min(len(word), start + longest) + 1)
            if (piece := word[start:stop]) in self._ids
        }

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids))

    def _tokenizer(self, ids: Mapping[str, int], rules: Iterable[str]) -> Tokenizer:
        from tokenizers import Tokenizer, models

        # Of equal rules the first one ranks (llama.cpp); the library would take the last.
        merges = [_halves(rule) for rule in dict.fromkeys(rules)]
        # Bytes without a token would vanish before merging and let their neighbours
        # join; ids past the vocabulary keep their place and are dropped afterwards.
        absent = [character for character in BYTE_OF if character not in self._ids]
        vocabulary = {**ids} | {letter: self._n_vocab + at for at, letter in enumerate(absent)}
        model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=self._pre.ignore_merges)
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = self._words
        return tokenizer


def _splitter(pre: PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Text → words in the byte alphabet."""
    from tokenizers import Regex, pre_tokenizers

    steps = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in pre.regexes]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*steps, to_bytes])


def _halves(rule: str) -> tuple[str, str]:
    first, _, second = rule.partition(" ")
    return first, second
