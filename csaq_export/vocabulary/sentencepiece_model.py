"""tokenizer.model (SentencePiece) with its added tokens → tokens, scores and types."""

from pathlib import Path

from sentencepiece import SentencePieceProcessor

from csaq_export.config import Config, read_json
from csaq_export.vocabulary.tokens import Tokens, TokenType, added_token, unused_tokens
from csaq_runtime.errors import TokenizerError

ADDED_SCORE = -1000.0


def sentencepiece_tokens(folder: Path, settings: Config, n_vocab: int) -> Tokens:
    """The vocabulary of `tokenizer.model`, extended and overridden by the JSON files beside it.

    Raises TokenizerError if the file does not parse or a token lies beyond `n_vocab`.
    """
    path = folder / "tokenizer.model"
    pieces = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(path))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(f"{path}: not a SentencePiece model: {error}") from error
    tokens = unused_tokens("llama", "default", n_vocab, with_scores=True)
    # A model cut to fewer rows than its vocabulary never produces the rest.
    for token_id in range(min(pieces.vocab_size(), n_vocab)):
        content, score = pieces.IdToPiece(token_id), pieces.GetScore(token_id)
        tokens.put(token_id, content, _type(pieces, token_id), score)
    _put_added(tokens, folder, settings, n_vocab)
    return tokens


def _type(pieces: SentencePieceProcessor, token_id: int) -> TokenType:
    for is_kind, kind in (
        (pieces.IsUnknown, TokenType.UNKNOWN),
        (pieces.IsControl, TokenType.CONTROL),
        (pieces.IsUnused, TokenType.UNUSED),
        (pieces.IsByte, TokenType.BYTE),
    ):
        if is_kind(token_id):
            return kind
    return TokenType.NORMAL


def _put_added(tokens: Tokens, folder: Path, settings: Config, n_vocab: int) -> None:
    file = folder / "added_tokens.json"
    for content, token_id in (read_json(file, TokenizerError) if file.exists() else {}).items():
        added = added_token({"content": content}, token_id, n_vocab, str(file))
        tokens.put(added.id, added.content, TokenType.USER_DEFINED, ADDED_SCORE)
    for key, entry in settings.part("added_tokens_decoder").values.items():
        token_id = int(key) if key.isdecimal() else key
        added = added_token(entry, token_id, n_vocab, settings.where)
        tokens.put(added.id, added.text, added.type, ADDED_SCORE)
