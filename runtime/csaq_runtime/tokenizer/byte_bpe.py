"""Plain text → ids for `tokenizer.ggml.model = gpt2`: byte-level BPE by the `tokenizers` library.

The merge list is checked here, because the library reports a bad one as a
bare exception long after the key that caused it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from csaq_runtime.errors import TokenizerError
from csaq_runtime.tokenizer.byte_alphabet import BYTE_OF
from csaq_runtime.tokenizer.pre_tokenizers import PreTokenizer
from csaq_runtime.tokenizer.token_table import TokenTable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from csaq_runtime.gguf import GGUFFile

MERGES = "tokenizer.ggml.merges"


def byte_bpe_encoder(
    file: GGUFFile, table: TokenTable, pre: PreTokenizer
) -> Callable[[str], list[int]]:
    """An encoder of plain text; TokenizerError names a merge that does not fit the tokens."""
    tokenizer = _tokenizer(table, _merges(file, table), pre)
    n_vocab = len(table)

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids if not ids or max(ids) < n_vocab else [id for id in ids if id < n_vocab]

    return encode


def _merges(file: GGUFFile, table: TokenTable) -> list[tuple[str, str]]:
    """Merge rules in rank order, every half and every product a token, no rule twice."""
    pairs: list[tuple[str, str]] = []
    ids = table.ids
    # Of equal rules the first one ranks (llama.cpp); the library would take the last.
    for rule in dict.fromkeys(file.texts(MERGES)):
        first, _, second = rule.partition(" ")
        if first not in ids or second not in ids or first + second not in ids:
            reason = f"rule {rule!r} is not two tokens that make a third"
            raise TokenizerError(f"{file.path}: {MERGES}: {reason}")
        pairs.append((first, second))
    return pairs


def _tokenizer(table: TokenTable, merges: list[tuple[str, str]], pre: PreTokenizer) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    # Bytes without a token would vanish before merging and let their neighbours
    # join; ids past the vocabulary keep their place and are dropped afterwards.
    absent = [character for character in BYTE_OF if character not in table.ids]
    vocabulary = table.ids | {character: len(table) + at for at, character in enumerate(absent)}
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre.ignore_merges)
    steps = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in pre.regexes]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, to_bytes])
    return tokenizer
