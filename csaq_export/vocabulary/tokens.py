"""The token list of a vocabulary under construction, whatever it was read from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from gguf import GGUFValueType

from csaq_export.config import Config
from csaq_export.metadata import Metadata, array, flag, text
from csaq_runtime.errors import TokenizerError


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, as in llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Tokens:
    """Texts, types and (SentencePiece kinds only) scores by token id, filled in by the readers.

    `model` is `tokenizer.ggml.model`, `pre` the pre-tokenizer's name in llama.cpp.
    """

    model: str
    pre: str
    texts: list[str]
    types: list[TokenType]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_space_prefix: bool | None = None

    def put(self, token_id: int, content: str, kind: TokenType, score: float = 0.0) -> None:
        """Set a token; the caller has checked the id."""
        self.texts[token_id], self.types[token_id] = content, kind
        if self.scores:
            self.scores[token_id] = score

    def metadata(self) -> Metadata:
        """The `tokenizer.ggml.*` keys of the list itself."""
        keys: Metadata = {
            "model": text(self.model),
            "pre": text(self.pre),
            "tokens": array(self.texts, GGUFValueType.STRING),
            "token_type": array([int(t) for t in self.types], GGUFValueType.INT32),
        }
        if self.scores:
            keys["scores"] = array(self.scores, GGUFValueType.FLOAT32)
        if self.merges:
            keys["merges"] = array(self.merges, GGUFValueType.STRING)
        if self.add_space_prefix is not None:
            keys["add_space_prefix"] = flag(self.add_space_prefix)
        return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def unused_tokens(model: str, pre: str, n_vocab: int, with_scores: bool) -> Tokens:
    """`n_vocab` unused tokens `[PADi]`: a model's matrix is often wider than its vocabulary."""
    texts = [f"[PAD{i}]" for i in range(n_vocab)]
    scores = [-10000.0] * n_vocab if with_scores else []
    return Tokens(model, pre, texts, [TokenType.UNUSED] * n_vocab, scores)


@dataclass(frozen=True)
class AddedToken:
    """An entry of `added_tokens`: its id, text, and whether it controls the model."""

    id: int
    content: str
    control: bool

    @property
    def type(self) -> TokenType:
        """CONTROL for tokens that are or look special, else USER_DEFINED."""
        return TokenType.CONTROL if self.control else TokenType.USER_DEFINED

    @property
    def text(self) -> str:
        """The text as llama.cpp wants it: user-defined tokens with plain spaces."""
        return self.content if self.control else self.content.replace("▁", " ")


def added_token(entry: Any, token_id: Any, n_vocab: int, where: str) -> AddedToken:
    """Check one added token; TokenizerError naming it if its id or text is impossible."""
    content = entry.get("content") if isinstance(entry, dict) else None
    if type(token_id) is not int or not isinstance(content, str):
        raise TokenizerError(f"{where}: added token {token_id!r} has no integer id or no text")
    if not 0 <= token_id < n_vocab:
        raise TokenizerError(
            f"{where}: added token {content!r} has id {token_id}, vocab_size is {n_vocab}"
        )
    return AddedToken(token_id, content, bool(entry.get("special")) or _looks_special(content))


def added_tokens(document: Config, n_vocab: int) -> Iterator[AddedToken]:
    """The checked `added_tokens` of a tokenizer.json."""
    for entry in document.items("added_tokens"):
        token_id = entry.get("id") if isinstance(entry, dict) else None
        yield added_token(entry, token_id, n_vocab, document.where)


def vocabulary_of(document: Config, n_vocab: int) -> dict[str, int]:
    """`model.vocab` of a tokenizer.json, checked: ids within `n_vocab`, each used once."""
    vocabulary = document.part("model").part("vocab").values
    for content, token_id in vocabulary.items():
        if type(token_id) is not int or not 0 <= token_id < n_vocab:
            raise TokenizerError(
                f"{document.where}: token {content!r} has id {token_id!r}, vocab_size is {n_vocab}"
            )
    if not vocabulary or len(set(vocabulary.values())) != len(vocabulary):
        raise TokenizerError(f"{document.where}: the vocabulary is empty or uses an id twice")
    return dict(vocabulary)


def merges_of(document: Config) -> list[tuple[str, str]]:
    """`model.merges` of a tokenizer.json in either form ("a b" or ["a", "b"])."""
    merges = document.part("model").items("merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if not all(_is_pair(pair) for pair in pairs):
        raise TokenizerError(f"{document.where}: a merge is not a pair of texts")
    return [(left, right) for left, right in pairs]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(s, str) for s in value)


def _looks_special(content: str) -> bool:
    """Some models forget to mark control tokens; llama.cpp's converter knows these shapes."""
    return content in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        content.startswith(start) and content.endswith(end)
        for start, end in (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    )
