"""What `--type` takes: llama-quantize's preset names and the type each kind of tensor gets.

The choices are those of llama.cpp's src/llama-quant.cpp, so that a preset means here
what it means there. `type_choice.py` applies them to a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from csaq_export.preset_rules import (
    Rule,
    always,
    first,
    first_part,
    middle,
    more_bits,
    shared,
    with_importance,
    without_importance,
)
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType as T


@dataclass(frozen=True)
class Preset:
    """A named mixture: `type` for most matrices, `rules` by kind for the sensitive ones.

    `file_type` is llama.cpp's number for it (`general.file_type`). `output` is the
    type of the output matrix, or of an embedding that serves as one. `widens_large`:
    the values of 80-layer models get more bits than 4. `needs_importance`: without an
    imatrix the file does not work.
    """

    file_type: int
    type: T
    output: T = T.Q6_K
    rules: Mapping[str, Rule] = field(default_factory=dict)
    widens_large: bool = True
    needs_importance: bool = False


def _two_bits(file_type: int, main: T, better: T) -> Preset:
    """The IQ2 family: `better` where two bits hurt most."""
    rules = {
        "token_embd": always(better),
        "attn_v": shared(T.Q4_K, better),
        "ffn_down": first_part(8, better),
    }
    if better == T.IQ3_S:
        rules["attn_output"] = always(better)
    return Preset(file_type, main, T.Q5_K, rules, widens_large=False, needs_importance=True)


def _four_bits(file_type: int, main: T) -> Preset:
    """The IQ4 pair."""
    rules = {
        "attn_v": shared(T.Q5_K),
        "ffn_down": without_importance(first_part(8, T.Q5_K)),
    }
    return Preset(file_type, main, rules=rules)


_MEDIUM = {"attn_v": more_bits(T.Q6_K), "ffn_down": more_bits(T.Q6_K)}

PRESETS: dict[str, Preset] = {
    "F32": Preset(0, T.F32, T.F32),
    "F16": Preset(1, T.F16, T.F16),
    "BF16": Preset(32, T.BF16, T.BF16),
    "Q8_0": Preset(7, T.Q8_0, T.Q8_0),
    "Q4_0": Preset(2, T.Q4_0, rules={"ffn_down": with_importance(first_part(8, T.Q4_1))}),
    "Q4_1": Preset(3, T.Q4_1),
    "Q5_0": Preset(8, T.Q5_0, rules={"ffn_down": with_importance(first_part(8, T.Q5_1))}),
    "Q5_1": Preset(9, T.Q5_1),
    "Q2_K": Preset(
        10,
        T.Q2_K,
        rules={
            "attn_v": shared(T.Q4_K, T.Q3_K),
            "attn_output": always(T.Q3_K),
            "ffn_down": always(T.Q3_K),
        },
    ),
    "Q2_K_S": Preset(
        21,
        T.Q2_K,
        rules={"attn_v": shared(T.Q4_K), "ffn_down": first_part(8, T.Q4_K)},
        needs_importance=True,
    ),
    "Q3_K_S": Preset(11, T.Q3_K),
    "Q3_K_M": Preset(
        12,
        T.Q3_K,
        rules={
            "attn_v": first(2, T.Q5_K, T.Q4_K),
            "attn_output": always(T.Q4_K),
            "ffn_down": first_part(16, T.Q5_K, T.Q4_K),
        },
    ),
    "Q3_K_L": Preset(
        13,
        T.Q3_K,
        rules={kind: always(T.Q5_K) for kind in ("attn_v", "attn_output", "ffn_down")},
    ),
    "Q4_K_S": Preset(
        14, T.Q4_K, rules={"attn_v": first(4, T.Q5_K), "ffn_down": first_part(8, T.Q5_K)}
    ),
    "Q4_K_M": Preset(15, T.Q4_K, rules=_MEDIUM),
    "Q5_K_S": Preset(16, T.Q5_K),
    "Q5_K_M": Preset(17, T.Q5_K, rules=_MEDIUM),
    "Q6_K": Preset(18, T.Q6_K),
    "IQ4_NL": _four_bits(25, T.IQ4_NL),
    "IQ4_XS": _four_bits(30, T.IQ4_XS),
    "IQ3_M": Preset(
        27,
        T.IQ3_S,
        rules={
            "attn_v": always(T.Q4_K),
            "attn_output": always(T.Q4_K),
            "ffn_down": first_part(8, T.Q4_K),
        },
    ),
    "IQ3_S": Preset(26, T.IQ3_S, rules={"attn_v": shared(T.Q4_K)}),
    "IQ3_XS": Preset(
        22,
        T.IQ3_S,
        rules={
            "attn_v": shared(T.Q4_K),
            "attn_q": always(T.IQ3_XXS),
            "attn_k": always(T.IQ3_XXS),
            "ffn_gate": middle(T.IQ3_XXS),
            "ffn_up": middle(T.IQ3_XXS),
        },
        needs_importance=True,
    ),
    "IQ3_XXS": Preset(
        23,
        T.IQ3_XXS,
        T.Q5_K,
        rules={
            "token_embd": always(T.IQ3_S),
            "attn_v": without_importance(shared(T.Q4_K, T.IQ3_S), shared(T.Q4_K)),
            "attn_q": always(T.IQ2_S),
            "attn_k": always(T.IQ2_S),
            "attn_output": always(T.IQ3_S),
            "ffn_down": without_importance(first_part(8, T.Q4_K, T.Q3_K)),
        },
        needs_importance=True,
    ),
    "IQ2_M": _two_bits(29, T.IQ2_S, T.IQ3_S),
    "IQ2_S": _two_bits(28, T.IQ2_XS, T.IQ3_S),
    "IQ2_XS": _two_bits(20, T.IQ2_XS, T.Q2_K),
    "IQ2_XXS": _two_bits(19, T.IQ2_XXS, T.Q2_K),
}

# llama-quantize's short names.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def find_preset(name: str) -> tuple[str, Preset]:
    """The preset's full name and choices; UsageError listing the names for an unknown one."""
    full = ALIASES.get(name.upper(), name.upper())
    if full not in PRESETS:
        raise UsageError(f"unknown type {name!r}", f"one of {', '.join([*PRESETS, *ALIASES])}")
    return full, PRESETS[full]
