"""The `pre_tokenizer` of a tokenizer.json → its name in llama.cpp (`tokenizer.ggml.pre`).

llama.cpp knows pre-tokenizers by name only; the splitting rules behind each name are
in its src/llama-vocab.cpp, with the original expressions in comments. A tokenizer
whose rules match none of them would be split differently, so it is refused.
"""

import json
from collections.abc import Mapping
from typing import Any

from csaq_export.config import Config
from csaq_runtime.errors import TokenizerError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MIXED_CASE = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_SLASH_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_BYTES = ("ByteLevel", "plain")
_BYTES_GPT2 = ("ByteLevel", "gpt-2 rule")
_DIGITS = ("Digits", "each")

Step = tuple[str, str]

# One entry per rule set; llama.cpp has several names for some of them.
NAMES: dict[tuple[Step, ...], str] = {
    (_BYTES_GPT2,): "gpt-2",
    (_DIGITS, _BYTES_GPT2): "smollm",
    (("Split", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_TAIL}"), _BYTES): "qwen2",
    (("Split", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_TAIL}"), _BYTES): "llama-bpe",
    (("Split", rf"{_MIXED_CASE}|\p{{N}}|{_SLASH_TAIL}"), _BYTES): "tekken",
    (
        ("Split", "[\r\n]"),
        ("Split", r"\s?\p{L}+"),
        ("Split", r"\s?\p{P}+"),
        ("Split", "[一-龥ࠀ-一가-퟿]+"),
        _DIGITS,
        _BYTES,
    ): "deepseek-coder",
}
# llama.cpp takes whole words before merges under some names and not under others.
WITHOUT_IGNORE_MERGES = {"llama-bpe": "smaug-bpe"}
IGNORE_MERGES = ("llama-bpe", "tekken")


def pre_tokenizer_name(document: Config) -> str:
    """llama.cpp's name for the splitting rules; TokenizerError showing them if it has none."""
    steps = document.steps("pre_tokenizer", "pretokenizers")
    described = tuple(_describe(step.values) for step in steps)
    name = NAMES.get(described)
    ignores = document.part("model").flag("ignore_merges")
    if name in WITHOUT_IGNORE_MERGES and not ignores:
        name = WITHOUT_IGNORE_MERGES[name]
    if name is None or (ignores and name not in IGNORE_MERGES):
        raise TokenizerError(
            f"{document.where}: llama.cpp has no name for this pre-tokenizer: "
            f"{json.dumps(document.values.get('pre_tokenizer'), ensure_ascii=False)[:300]}",
            f"known: {', '.join([*NAMES.values(), *WITHOUT_IGNORE_MERGES.values()])}",
        )
    return name


def _describe(step: Mapping[str, Any]) -> Step:
    """A step as (kind, rule); anything unusual in it makes a rule that matches no name."""
    kind = step.get("type")
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return _BYTES_GPT2 if step.get("use_regex", True) else _BYTES
    if kind == "Digits" and step.get("individual_digits"):
        return _DIGITS
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern")
        return ("Split", str(pattern.get("Regex")) if isinstance(pattern, dict) else "?")
    return ("?", json.dumps(step, sort_keys=True))
