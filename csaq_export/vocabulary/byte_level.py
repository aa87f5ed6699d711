"""Byte-level BPE (GPT-2, Llama 3, Qwen) in tokenizer.json → tokens, types and merges."""

from csaq_export.config import Config
from csaq_export.vocabulary.pre_tokenizer import pre_tokenizer_name
from csaq_export.vocabulary.tokens import (
    Tokens,
    TokenType,
    added_tokens,
    merges_of,
    unused_tokens,
    vocabulary_of,
)
from csaq_runtime.errors import TokenizerError

# llama.cpp normalizes nothing; NFC changes only text that is not composed already.
KNOWN_NORMALIZERS = (None, "NFC")
# A space inside a merge is written as the byte alphabet writes it.
SPACE = chr(ord(" ") + 256)


def byte_level_tokens(document: Config, n_vocab: int) -> Tokens:
    """The vocabulary of a checked `tokenizer.json`; TokenizerError if it is of another kind."""
    normalizer = document.part("normalizer").values.get("type")
    if normalizer not in KNOWN_NORMALIZERS:
        raise TokenizerError(f"{document.where}: normalizer {normalizer!r} is not supported")
    tokens = unused_tokens("gpt2", pre_tokenizer_name(document), n_vocab, with_scores=False)
    for content, token_id in vocabulary_of(document, n_vocab).items():
        tokens.put(token_id, content, TokenType.NORMAL)
    for added in added_tokens(document, n_vocab):
        tokens.put(added.id, added.text, added.type)
    tokens.merges = [
        f"{left.replace(' ', SPACE)} {right.replace(' ', SPACE)}"
        for left, right in merges_of(document)
    ]
    if not tokens.merges:
        raise TokenizerError(f"{document.where}: a byte-level BPE without merges")
    return tokens
