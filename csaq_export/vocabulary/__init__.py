"""Tokenizer files of a Hugging Face folder → `tokenizer.*` keys of a GGUF.

Which files decide, in this order, as in convert_hf_to_gguf.py: `tokenizer.model`
(SentencePiece), `tokenizer.json` with byte fallback (the same kind, saved by
tokenizers), `tokenizer.json` with byte-level BPE.
"""

from pathlib import Path

from csaq_export.config import Config, read_json
from csaq_export.metadata import Metadata, flag
from csaq_export.vocabulary.byte_level import byte_level_tokens
from csaq_export.vocabulary.chat_template import template_metadata
from csaq_export.vocabulary.llama_bpe import llama_bpe_tokens
from csaq_export.vocabulary.sentencepiece_model import sentencepiece_tokens
from csaq_export.vocabulary.special import special_metadata
from csaq_export.vocabulary.tokens import Tokens
from csaq_runtime.errors import TokenizerError


def vocabulary_metadata(folder: Path, config: Config, n_vocab: int) -> Metadata:
    """The `tokenizer.*` keys; `n_vocab` tokens, the missing ones filled with unused `[PADi]`.

    Raises TokenizerError if the files are absent, inconsistent or of an unknown kind.
    """
    settings = _optional(folder / "tokenizer_config.json")
    document = _optional(folder / "tokenizer.json")
    tokens = _tokens(folder, document, settings, n_vocab)
    metadata = tokens.metadata()
    if "add_prefix_space" in settings and tokens.add_space_prefix is None:
        metadata["tokenizer.ggml.add_space_prefix"] = flag(settings.flag("add_prefix_space"))
    metadata |= special_metadata(document, settings, config, tokens.texts)
    return metadata | template_metadata(folder, settings)


def _tokens(folder: Path, document: Config, settings: Config, n_vocab: int) -> Tokens:
    if (folder / "tokenizer.model").is_file():
        return sentencepiece_tokens(folder, settings, n_vocab)
    if not document.values:
        raise TokenizerError(f"{folder}: neither tokenizer.model nor tokenizer.json")
    if document.part("model").text("type", "") != "BPE":
        kind = document.part("model").values.get("type")
        raise TokenizerError(f"{document.where}: model type {kind!r} is not supported (only BPE)")
    if document.part("model").flag("byte_fallback"):
        return llama_bpe_tokens(document, settings, n_vocab)
    return byte_level_tokens(document, n_vocab)


def _optional(path: Path) -> Config:
    values = read_json(path, TokenizerError) if path.exists() else {}
    return Config(values, str(path), TokenizerError)
