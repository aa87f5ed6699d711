"""A byte-level BPE vocabulary of any size for files of random weights: made-up words, no corpus."""

import random

import gguf

from csaq_runtime.tokenizer.byte_alphabet import BYTE_OF, CHARACTER_OF

SHORT = 4
SPACE = CHARACTER_OF[ord(" ")]


def add_random_vocabulary(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """Write Qwen2's kind of tokenizer keys: 256 bytes, then `n_vocab - 256` merged words.

    Digits merge with nothing, so a text of n digits has n tokens.
    """
    merges = _merges(n_vocab - len(BYTE_OF))
    tokens = [*BYTE_OF, *(first + second for first, second in merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * n_vocab)
    writer.add_token_merges([f"{first} {second}" for first, second in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)


def _merges(n: int) -> list[tuple[str, str]]:
    """`n` pairs of earlier tokens, each making a word that no other pair makes."""
    source = random.Random(0)
    short = [SPACE, *"abcdefghijklmnopqrstuvwxyz"]
    known, merges = set(short), []
    while len(merges) < n:
        first, second = source.choice(short), source.choice(short)
        word = first + second
        if word not in known and SPACE not in second:
            known.add(word)
            merges.append((first, second))
            if len(word) <= SHORT:
                short.append(word)
    return merges
