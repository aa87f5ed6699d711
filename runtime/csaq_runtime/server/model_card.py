"""What requests are read against: the served model's name, vocabulary and limits."""

from dataclasses import dataclass

from csaq_runtime.tokenizer import Vocabulary


@dataclass(frozen=True)
class ModelCard:
    """`name` is what clients see; `n_vocab` counts ids the model knows; `created` is Unix time."""

    name: str
    path: str
    vocabulary: Vocabulary
    n_vocab: int
    n_ctx: int
    n_slot: int
    created: int
