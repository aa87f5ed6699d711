"""`tokenizer.ggml.pre` → how byte-level BPE cuts a text into words before merging.

Names, regular expressions and flags are facts from llama.cpp
(src/llama-vocab.cpp); each expression cuts the pieces that the one before it
left. Where llama.cpp treats all non-ASCII letters as of both cases
(`tekken`, `gpt-4o`), so does this table: ids must agree with stock llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from csaq_runtime.errors import TokenizerError

if TYPE_CHECKING:
    from csaq_runtime.gguf import GGUFFile

PRE = "tokenizer.ggml.pre"

_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _llama3(digits: str, marks: str = "", tail: str = r"[\r\n]*" + _SPACES) -> str:
    letters = rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}{marks}]+"
    return rf"{_CONTRACTION}|{letters}|{digits}| ?[^\s\p{{L}}{marks}\p{{N}}]+{tail}"


def _cased(digits: str, suffix: str, marks: str = "") -> str:
    """Words cut at a change from lower to upper case."""
    upper, lower = (rf"(?:(?=[\p{{L}}{marks}])[^{case}])" for case in ("a-z", "A-Z"))
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{upper}*{lower}+{suffix}|{start}{upper}+{lower}*{suffix}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_SPACES}"


_ASCII_MARKS = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
_DEEPSEEK3_START = rf"{_ASCII_MARKS}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_DEEPSEEK3 = (
    *(r"\p{N}{1,3}", _CJK),
    rf"{_DEEPSEEK3_START}| ?[\p{{P}}\p{{S}}]+[\r\n]*{_SPACES}",
)
_CJK_DEEPSEEK = "[一-龥ࠀ-一가-\ud7ff]+"
# Letters with case, as DeepSeek LLM lists them.
_DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5À-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-"
    "Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤ"
    "Ⳬ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
_JAIS2_SPACES = "|".join(
    [r"[\r\n]*|\s*[\r\n]+"]
    + [rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)]
    + [r"\s{1,2}(?!\S)|\s"]
)

# Kind of cutting → expressions, applied one after the other.
_REGEXES: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt2": (_GPT2,),
    "llama3": (_llama3(r"\p{N}{1,3}"),),
    "jais2": (_llama3(r"\p{N}{1,3}", tail=_JAIS2_SPACES),),
    "qwen2": (_llama3(r"\p{N}"),),
    "qwen35": (_llama3(r"\p{N}", marks=r"\p{M}"),),
    "starcoder": (r"\p{N}", _GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "deepseek-llm": (
        *(r"[\r\n]", rf"\s?[{_DEEPSEEK_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
        *(r"\s+\z", _CJK_DEEPSEEK, r"\p{N}+"),
    ),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_DEEPSEEK, r"\p{N}"),
    "deepseek3": _DEEPSEEK3,
    "spark": (
        *(r"\p{N}{1,3}", _CJK),
        *(rf"{_DEEPSEEK3_START}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"),
    ),
    "bloom": (_BLOOM,),
    "viking": (_BLOOM, r"\p{N}"),
    "tekken": (_cased(r"\p{N}", ""),),
    "gpt4o": (_cased(r"\p{N}{1,3}", f"{_CONTRACTION}?"),),
    "bailingmoe": (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "seed-coder": (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{N}}\r\n]+{_SPACES}",
    ),
    "ufakzeka": (
        rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_SPACES}",
    ),
    "laguna": (r"[^\n]+|[\n]+", _llama3(r"\p{N}")),
    "exaone-moe": (
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "minicpm5": (r"\p{N}{1,3}", _llama3(r"\p{N}+")),
}

# Kind of cutting → the names files use for it.
_NAMES: dict[str, tuple[str, ...]] = {
    "default": ("default",),
    "gpt2": (
        *("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "exaone4", "mpt", "olmo", "jais"),
        *("trillion", "granite-docling"),
    ),
    "llama3": (
        *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0"),
        *("lfm2", "dbrx", "smaug-bpe", "chatglm-bpe", "glm4", "glm5"),
    ),
    "jais2": ("jais-2",),
    "qwen2": (
        *("qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"),
        *("solar-open", "grok-2"),
    ),
    "qwen35": ("qwen35",),
    "starcoder": (
        *("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"),
        *("mellum2",),
    ),
    "falcon": ("falcon",),
    "deepseek-llm": ("deepseek-llm",),
    "deepseek-coder": ("deepseek-coder",),
    "deepseek3": ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"),
    "spark": ("spark2_5",),
    "bloom": ("poro-chat", "bloom", "gpt3-finnish"),
    "viking": ("viking",),
    "tekken": ("tekken",),
    "gpt4o": ("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"),
    "bailingmoe": ("bailingmoe", "bailingmoe2", "llada-moe"),
    "seed-coder": ("seed-coder",),
    "ufakzeka": ("ufakzeka",),
    "laguna": ("laguna",),
    "exaone-moe": ("exaone-moe",),
    "minicpm5": ("minicpm5",),
}
_KIND_OF = {name: kind for kind, names in _NAMES.items() for name in names}

_ADDS_BOS = frozenset(
    ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
) | {"tekken"}
_IGNORES_MERGES = _ADDS_BOS | {"glm4", "glm5", "minicpm5"}


@dataclass(frozen=True)
class PreTokenizer:
    """How to cut (expressions in order), and what the name implies besides.

    `ignore_merges`: a word that is a token is taken whole. `add_bos`: the
    default where no key says otherwise.
    """

    regexes: tuple[str, ...]
    ignore_merges: bool
    add_bos: bool


def pre_tokenizer_names() -> dict[str, tuple[str, ...]]:
    """Every known `tokenizer.ggml.pre`, by kind of cutting."""
    return dict(_NAMES)


def pre_tokenizer(file: GGUFFile) -> PreTokenizer:
    """The pre-tokenizer that `file` names; an unknown name is a TokenizerError.

    A missing or empty name means "default", as in llama.cpp.
    """
    name = file.text(PRE, default="") or "default"
    if name not in _KIND_OF:
        raise TokenizerError(f"{file.path}: {PRE}: {name!r} is not known")
    return PreTokenizer(_REGEXES[_KIND_OF[name]], name in _IGNORES_MERGES, name in _ADDS_BOS)
