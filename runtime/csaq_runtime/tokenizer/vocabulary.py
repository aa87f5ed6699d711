"""The vocabulary of an open GGUF file: what the engine, the chat and the server talk to.

Data comes from `tokenizer.*` metadata; text goes in and token ids come out,
and back. Agrees with llama.cpp's `llama_tokenize` id by id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

from csaq_runtime.errors import TokenizerError
from csaq_runtime.tokenizer.byte_bpe import byte_bpe_encoder
from csaq_runtime.tokenizer.detokenizer import Detokenizer, is_hidden, piece_bytes
from csaq_runtime.tokenizer.disguise import Disguise, Fragments, disguise_for, fragments_of
from csaq_runtime.tokenizer.partition import SpecialText, partition, special_texts
from csaq_runtime.tokenizer.pre_tokenizers import pre_tokenizer
from csaq_runtime.tokenizer.sentencepiece import SPACE, sentencepiece_encoder
from csaq_runtime.tokenizer.special_tokens import SpecialTokens, read_special_tokens
from csaq_runtime.tokenizer.token_table import TokenTable, read_token_table

if TYPE_CHECKING:
    from csaq_runtime.gguf import GGUFFile

MODEL = "tokenizer.ggml.model"
_NO_TEXT = ("none", "no_vocab")


@dataclass(frozen=True)
class Vocabulary:
    """Token ids 0…n_vocab−1 and what they mean.

    `eog_ids` end a reply; `add_bos` and `add_eos` say what `encode` puts around
    a text; `chat_template` is Jinja source or None.
    """

    n_vocab: int
    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    add_bos: bool
    add_eos: bool
    chat_template: str | None
    _types: list[int] = field(repr=False)
    _specials: list[SpecialText] = field(repr=False)
    _encode_plain: Callable[[str, bool], list[int]] = field(repr=False)
    _piece: Callable[[int], bytes] = field(repr=False)
    _strip_space: bool = field(repr=False)

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of `text`.

        `add_special` adds BOS/EOS if the model wants them; `parse_special`
        turns the texts of control tokens (`<|im_start|>`) into their ids.
        TokenizerError where the vocabulary cannot express the text.
        """
        ids = [self.bos_id] if add_special and self.add_bos and self.bos_id is not None else []
        follows_special = True
        for part in partition(_well_formed(text), self._specials, parse_special):
            ids += [part] if isinstance(part, int) else self._encode_plain(part, follows_special)
            follows_special = isinstance(part, int)
        if add_special and self.add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def disguise(self, values: Any) -> Disguise:
        """For one prompt: what hides control tokens spelled out in `values` (JSON's types)."""
        return disguise_for(self._fragments, values)

    def encode_prompt(self, text: str, disguise: Disguise) -> list[int]:
        """Token ids of a rendered prompt, nothing added; what `disguise` hid stays plain text.

        TokenizerError where the vocabulary cannot express the text.
        """
        ids: list[int] = []
        follows_special = True
        for part in partition(_well_formed(text), self._specials, True):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._encode_text(disguise.reveal(part), follows_special)
            follows_special = isinstance(part, int)
        return ids

    def _encode_text(self, text: str, follows_special: bool) -> list[int]:
        ids = self._encode_plain(text, follows_special)
        if not any(self._hides(id) for id in ids):
            return ids
        # A vocabulary may merge plain pieces into a control token: letters cannot.
        letters = [id for letter in text for id in self._encode_plain(letter, False)]
        return [id for id in letters if not self._hides(id)]

    @cached_property
    def _fragments(self) -> Fragments:
        return fragments_of(special.text for special in self._specials if special.parsed_only)

    def decode(self, ids: Iterable[int], keep_special: bool = False) -> str:
        """Text of `ids`, the inverse of `encode`; broken UTF-8 becomes U+FFFD.

        TokenizerError for an id outside the vocabulary.
        """
        kept = [id for id in ids if keep_special or not self._hides(id)]
        text = b"".join(self._piece_of(id) for id in kept).decode("utf-8", "replace")
        first = self._piece_of(kept[0]) if kept else b""
        return text[1:] if self._strip_space and first.startswith(b" ") else text

    def piece(self, id: int) -> str:
        """Text of one token, special tokens included; a broken character becomes U+FFFD."""
        return self._piece_of(id).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Bytes of one token, special tokens included; maybe part of a character only."""
        return self._piece_of(id)

    def stream(self) -> Detokenizer:
        """A detokenizer for generated ids; control tokens give no text."""
        return Detokenizer(lambda id: b"" if self._hides(id) else self._piece_of(id))

    def _hides(self, id: int) -> bool:
        return is_hidden(self._types[self._checked(id)])

    def _piece_of(self, id: int) -> bytes:
        return self._piece(self._checked(id))

    def _checked(self, id: int) -> int:
        if not 0 <= id < len(self._types):
            raise TokenizerError(f"token id {id} is not in the vocabulary of {len(self._types)}")
        return id


def load_vocabulary(file: GGUFFile) -> Vocabulary:
    """The vocabulary of `file`; TokenizerError for an inconsistent or unknown kind.

    `tokenizer.ggml.model = none` (test models) loads, but has no text.
    """
    model = file.text(MODEL)
    if model in _NO_TEXT:
        return _without_text(file)
    if model not in ("gpt2", "llama"):
        raise TokenizerError(
            f"{file.path}: {MODEL}: {model!r} is not supported",
            "byte-level BPE ('gpt2') and SentencePiece ('llama') vocabularies are",
        )
    return _byte_level(file) if model == "gpt2" else _sentencepiece(file)


def _byte_level(file: GGUFFile) -> Vocabulary:
    pre = pre_tokenizer(file)
    table = read_token_table(file)
    special = read_special_tokens(file, table, bos=None, eos=None)
    encode = byte_bpe_encoder(file, table, pre)
    plain = partial(_encode_byte_level, encode)
    return _vocabulary(file, table, special, plain, add_bos=pre.add_bos, spaces=False)


def _sentencepiece(file: GGUFFile) -> Vocabulary:
    table = read_token_table(file)
    # llama.cpp's defaults for this kind; `remove_extra_whitespaces` it ignores here.
    special = read_special_tokens(file, table, bos=1, eos=2)
    prefix = file.flag("tokenizer.ggml.add_space_prefix", default=True)
    encode = sentencepiece_encoder(table, file.path)
    plain = partial(_encode_sentencepiece, encode, prefix)
    return _vocabulary(file, table, special, plain, add_bos=True, spaces=True)


def _vocabulary(
    file: GGUFFile,
    table: TokenTable,
    special: SpecialTokens,
    plain: Callable[[str, bool], list[int]],
    *,
    add_bos: bool,
    spaces: bool,
) -> Vocabulary:
    name = file.text("general.name", default="")
    return Vocabulary(
        n_vocab=len(table),
        bos_id=special.bos_id,
        eos_id=special.eos_id,
        eog_ids=special.eog_ids,
        add_bos=file.flag("tokenizer.ggml.add_bos_token", default=add_bos),
        add_eos=file.flag("tokenizer.ggml.add_eos_token", default=False),
        chat_template=_chat_template(file),
        _types=special.types,
        _specials=special_texts(table, special.types, name),
        _encode_plain=plain,
        _piece=cache(partial(piece_bytes, table, special.types, spaces)),
        _strip_space=spaces and file.flag("tokenizer.ggml.add_space_prefix", default=True),
    )


def _without_text(file: GGUFFile) -> Vocabulary:
    architecture = file.text("general.architecture")
    n_vocab = file.integer(f"{architecture}.vocab_size", default=0)

    def refuse(*_: object) -> list[int]:
        raise TokenizerError(f"{file.path}: {MODEL}: the file has no vocabulary, only token ids")

    def refuse_piece(_: int) -> bytes:
        raise TokenizerError(f"{file.path}: {MODEL}: the file has no vocabulary, only token ids")

    none: frozenset[int] = frozenset()
    return Vocabulary(
        n_vocab, None, None, none, False, False, None, [], [], refuse, refuse_piece, False
    )


def _chat_template(file: GGUFFile) -> str | None:
    return file.text("tokenizer.chat_template", default="") or None


def _encode_byte_level(encode: Callable[[str], list[int]], text: str, _: bool) -> list[int]:
    return encode(text)


def _encode_sentencepiece(
    encode: Callable[[str], list[int]], prefix: bool, text: str, follows_special: bool
) -> list[int]:
    spaced = f" {text}" if prefix and follows_special else text
    return encode(spaced.replace(" ", SPACE))


def _well_formed(text: str) -> str:
    """`text` with lone surrogates (undecodable bytes of a command line) as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
