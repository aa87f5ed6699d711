"""tokenizer.json with byte fallback (Llama 2, Mistral, TinyLlama) → SentencePiece tokens.

tokenizers stores such vocabularies as ordered merges; llama.cpp joins the pair whose
result has the best score. The score of a token is therefore minus the rank of the
first merge that makes it, which gives the same joins in the same order.
"""

import re
from typing import Any

from csaq_export.config import Config
from csaq_export.vocabulary.tokens import (
    Tokens,
    TokenType,
    added_tokens,
    merges_of,
    unused_tokens,
    vocabulary_of,
)
from csaq_runtime.errors import TokenizerError

BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
ADDED_SCORE = -1000.0


def llama_bpe_tokens(document: Config, settings: Config, n_vocab: int) -> Tokens:
    """The vocabulary of a checked `tokenizer.json`, for `tokenizer.ggml.model = llama`."""
    tokens = unused_tokens("llama", "default", n_vocab, with_scores=True)
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges_of(document)):
        ranks.setdefault(left + right, rank)
    unknown = document.part("model").values.get("unk_token")
    for content, token_id in vocabulary_of(document, n_vocab).items():
        kind = _type(content, unknown)
        score = -float(ranks.get(content, len(ranks))) if kind == TokenType.NORMAL else 0.0
        tokens.put(token_id, content, kind, score)
    for added in added_tokens(document, n_vocab):
        if added.content != unknown:
            tokens.put(added.id, added.text, added.type, ADDED_SCORE)
    tokens.add_space_prefix = _adds_space(document)
    return tokens


def _type(content: str, unknown: Any) -> TokenType:
    if content == unknown:
        return TokenType.UNKNOWN
    return TokenType.BYTE if BYTE_TOKEN.fullmatch(content) else TokenType.NORMAL


def _adds_space(document: Config) -> bool:
    """Whether a text gets a leading space; TokenizerError unless spaces become `▁` as usual."""
    kinds = [step.values.get("type") for step in document.steps("normalizer", "normalizers")]
    splitter = document.part("pre_tokenizer").values
    if kinds in (["Prepend", "Replace"], ["Replace"]) and not splitter:
        return "Prepend" in kinds
    if splitter.get("type") == "Metaspace" and not kinds:
        return bool(splitter.get("prepend_scheme", "always") != "never")
    raise TokenizerError(
        f"{document.where}: spaces are not handled as in Llama (normalizers {kinds}, "
        f"pre-tokenizer {splitter.get('type')})"
    )
