"""Which token ids open, close and steer a text, from metadata keys and from well-known texts.

The rules are llama.cpp's (src/llama-vocab.cpp, `llama_vocab::impl::load`):
explicit keys first, then tokens recognised by text, because many files carry
no key for their end-of-turn token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csaq_runtime.errors import TokenizerError
from csaq_runtime.tokenizer.token_table import TokenTable, TokenType

if TYPE_CHECKING:
    from csaq_runtime.gguf import GGUFFile

_ID_KEYS = {
    role: f"tokenizer.ggml.{role}_token_id"
    for role in (
        *("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "prefix"),
        *("suffix", "middle", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep"),
    )
}

# Texts that end a reply wherever they exist in a vocabulary.
_END_TEXTS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>"),
    *("<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]"),
    *("[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>"),
    *("<｜end▁of▁sentence｜>", "[e~["),
)

# Fill-in-the-middle tokens by text: role → candidates. The last three roles end a reply too.
_FIM_TEXTS = {
    "fim_pre": (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>"),
        *("▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    ),
    "fim_suf": (
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>"),
        *("▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    ),
    "fim_mid": (
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>"),
        *("▁<MID>", "<|code_middle|>", "<|middle|>"),
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_FIM_ENDS = ("fim_pad", "fim_rep", "fim_sep")

# Always shown and always parsed, whatever their type says (gpt-oss).
_SHOWN_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning, and the token types after llama.cpp's corrections (by token id)."""

    bos_id: int | None
    eos_id: int | None
    eog_ids: frozenset[int]
    types: list[int]


def read_special_tokens(
    file: GGUFFile, table: TokenTable, bos: int | None, eos: int | None
) -> SpecialTokens:
    """Ids from keys and texts; `bos` and `eos` are the model kind's defaults.

    TokenizerError where a key names an id outside the vocabulary.
    """
    keyed = {role: id for role in _ID_KEYS if (id := _keyed_id(file, role, table)) is not None}
    fill_in = _fim_ids(table, keyed)
    end_ids = set(_ids_of(table, _END_TEXTS))
    types = list(table.types)
    for id in end_ids | set(fill_in.values()):
        types[id] = int(TokenType.CONTROL)
    for id in _ids_of(table, _SHOWN_TEXTS):
        types[id] = int(TokenType.USER_DEFINED)
    bos_id, eos_id = keyed.get("bos", _in(table, bos)), keyed.get("eos", _in(table, eos))
    known = fill_in | keyed
    end_ids |= {known[role] for role in ("eot", "eom", *_FIM_ENDS) if role in known}
    end_ids |= set() if eos_id is None else {eos_id}
    return SpecialTokens(bos_id, eos_id, _without_false_ends(table, types, end_ids), types)


def _keyed_id(file: GGUFFile, role: str, table: TokenTable) -> int | None:
    key = _ID_KEYS[role]
    if key not in file.metadata:
        return None
    id = file.integer(key, maximum=2**32 - 1)
    if id >= len(table):
        raise TokenizerError(f"{file.path}: {key}: id {id} is not below {len(table)} tokens")
    return id


def _in(table: TokenTable, id: int | None) -> int | None:
    return id if id is not None and id < len(table) else None


def _ids_of(table: TokenTable, texts: tuple[str, ...]) -> list[int]:
    return [table.ids[text] for text in texts if text in table.ids]


def _fim_ids(table: TokenTable, keyed: dict[str, int]) -> dict[str, int]:
    """Role → id of fill-in-the-middle tokens found by text where no key names them."""
    found = {role: _ids_of(table, texts) for role, texts in _FIM_TEXTS.items() if role not in keyed}
    return {role: ids[0] for role, ids in found.items() if ids}


def _without_false_ends(table: TokenTable, types: list[int], ids: set[int]) -> frozenset[int]:
    """Drop texts that end a reply elsewhere but not in vocabularies with these neighbours."""
    texts = {table.texts[id] for id in ids}
    call = bool({"<|call|>", "<|calls|>"} & texts)
    if "<|end|>" in texts and call and {"<|return|>", "<|flush|>"} & texts:
        types[table.ids["<|end|>"]] = int(TokenType.USER_DEFINED)
        ids = ids - {table.ids["<|end|>"]}
    if "</s>" in texts and "<|tool_response>" in texts:
        types[table.ids["</s>"]] = int(TokenType.NORMAL)
        ids = ids - {table.ids["</s>"]}
    return frozenset(ids)
