"""Special tokens: which ids begin, end, pad …, and whether a text gets them by itself.

Sources, the first that says something wins: the post-processor of tokenizer.json,
tokenizer_config.json, config.json (the rules of gguf-py's SpecialVocab).
"""

from typing import Any

from csaq_export.config import Config
from csaq_export.metadata import Metadata, flag, u32
from csaq_runtime.errors import TokenizerError

# `seperator` is how the format spells it.
KEYS = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator",
    "pad": "padding", "cls": "cls", "mask": "mask",
}  # fmt: skip
ADDABLE = ("bos", "eos", "sep")


def special_metadata(
    document: Config, settings: Config, config: Config, texts: list[str]
) -> Metadata:
    """`tokenizer.ggml.*_token_id` and `add_*_token`; TokenizerError for ids beyond the list."""
    names = {kind: _content(settings.values.get(f"{kind}_token")) for kind in KEYS}
    added = _added_by_template(document, names)
    metadata: Metadata = {}
    for kind, key in KEYS.items():
        token_id = _token_id(kind, names[kind], texts, config)
        if token_id is not None and not 0 <= token_id < len(texts):
            raise TokenizerError(
                f"{config.where}: {kind}_token_id {token_id} is beyond {len(texts)} tokens"
            )
        if token_id is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = u32(token_id)
    for kind in ADDABLE:
        value = added.get(kind, settings.values.get(f"add_{kind}_token"))
        if isinstance(value, bool):
            metadata[f"tokenizer.ggml.add_{kind}_token"] = flag(value)
    return metadata


def _content(entry: Any) -> str | None:
    """tokenizer_config.json names a token by text or by an object with `content`."""
    value = entry.get("content") if isinstance(entry, dict) else entry
    return value if isinstance(value, str) else None


def _token_id(kind: str, name: str | None, texts: list[str], config: Config) -> int | None:
    if name is not None and name in texts:
        return texts.index(name)
    value = config.values.get(f"{kind}_token_id")
    return value if type(value) is int else None


def _added_by_template(document: Config, names: dict[str, str | None]) -> dict[str, bool]:
    """What the post-processor adds: `bos` before, `eos` after, `sep` between two texts.

    A template may also name a bos token tokenizer_config.json does not know.
    """
    added: dict[str, bool] = {}
    for step in document.steps("post_processor", "processors"):
        if step.values.get("type") == "ByteLevel":
            added = {"bos": False, "eos": False} | added
        if step.values.get("type") == "TemplateProcessing":
            added |= _single(_template_tokens(step, "single"), names)
            added |= _pair(_template_tokens(step, "pair"), names)
    return added


def _single(tokens: list[str | None], names: dict[str, str | None]) -> dict[str, bool]:
    added = {}
    if len(tokens) > 1 and tokens[0] is not None:
        names["bos"] = names["bos"] or tokens[0]
        added["bos"] = tokens[0] in (names["bos"], names["cls"])
    if len(tokens) > 1 and tokens[-1] is not None:
        names["eos"] = names["eos"] or tokens[-1]
        added["eos"] = tokens[-1] == names["eos"]
    return added


def _pair(tokens: list[str | None], names: dict[str, str | None]) -> dict[str, bool]:
    places = [i for i, token in enumerate(tokens) if token is None]
    if len(places) != 2 or places[1] - places[0] < 2:
        return {}
    between, ends = tokens[places[0] + 1 : places[1]], places[1] < len(tokens) - 1
    separators = {names["sep"]} if ends else {names["sep"], names["eos"]}
    return {"sep": any(token in separators for token in between)}


def _template_tokens(step: Config, key: str) -> list[str | None]:
    """Special token texts of a template in order, None for each text."""
    return [_content(piece.part("SpecialToken").values.get("id")) for piece in step.objects(key)]
