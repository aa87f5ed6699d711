"""What a head's sidecar is called, and says about the model it was made for.

`csaq draft` writes it, `head_file` reads it.
"""

import hashlib
from collections.abc import Iterable

ARCHITECTURE, PREFIX = "csaq-draft", "csaq.draft"
"""`general.architecture` of a sidecar, and what its own keys begin with."""

VERSION = 1
"""Of the keys' meaning."""

SUFFIX = "-draft.gguf"
"""What the name of a sidecar ends with."""

IDS, NORM = "draft_ids", "target_output_norm.weight"
"""Tensors: the tokens that the head may draft, and the model's final norm."""

TARGET_SIZES = {
    "block_count": "n_layer",
    "embedding_length": "n_embd",
    "attention.head_count": "n_head",
    "attention.head_count_kv": "n_head_kv",
    "attention.key_length": "head_dim",
    "vocab_size": "n_vocab",
}
"""Key of a sidecar → the field of the model's `HParams` that must equal it."""


def tokens_sha256(tokens: Iterable[str]) -> str:
    """A digest of a vocabulary's token texts, in order."""
    digest = hashlib.sha256()
    for token in tokens:
        digest.update(token.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
