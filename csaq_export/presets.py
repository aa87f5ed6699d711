"""What `--type` takes: llama-quantize's preset names and the type each kind of tensor gets.

The choices are those of llama.cpp's src/llama-quant.cpp, so that a preset means here
what it means there. `type_choice.py` applies them to a model.
"""

from collections.abc import Callable
from dataclasses import dataclass

from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType as T


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: the `index`-th of `count` of its kind.

    `n_gqa`: query heads per key/value head; `importance`: an imatrix is at hand.
    """

    index: int
    count: int
    n_gqa: int
    importance: bool


# Gives the type for a place, or None for the preset's base type.
Rule = Callable[[Place], T | None]


def base(place: Place) -> T | None:
    """The preset's own type."""
    return None


def always(chosen: T) -> Rule:
    """The same type everywhere."""
    return lambda place: chosen


def first(n: int, chosen: T) -> Rule:
    """The first `n` tensors."""
    return lambda place: chosen if place.index < n else None


def first_part(divisor: int, chosen: T, rest: T | None = None) -> Rule:
    """The first `1/divisor` of the layers; `rest` for the others."""
    return lambda place: chosen if place.index < place.count // divisor else rest


def more_bits(chosen: T) -> Rule:
    """First and last eighth of the layers and every third between (`use_more_bits`)."""

    def rule(place: Place) -> T | None:
        eighth = place.count // 8
        edge = place.index < eighth or place.index >= 7 * place.count // 8
        return chosen if edge or (place.index - eighth) % 3 == 2 else None

    return rule


def shared(chosen: T, otherwise: T | None = None) -> Rule:
    """Where at least four query heads share a key/value head; `otherwise` elsewhere."""
    return lambda place: chosen if place.n_gqa >= 4 else otherwise


def without_importance(rule: Rule, otherwise: Rule = base) -> Rule:
    """`rule` as long as no imatrix guides the rounding."""
    return lambda place: otherwise(place) if place.importance else rule(place)


def with_importance(rule: Rule) -> Rule:
    """`rule` only where an imatrix guides the rounding."""
    return lambda place: rule(place) if place.importance else None


@dataclass(frozen=True)
class Preset:
    """A named mixture: `type` for most matrices, rules for the sensitive ones.

    `file_type` is llama.cpp's number for it (`general.file_type`). `output` is the
    type of the output matrix, or of an embedding that serves as one.
    """

    file_type: int
    type: T
    output: T = T.Q6_K
    attn_v: Rule = base
    attn_output: Rule = base
    ffn_down: Rule = base


PRESETS: dict[str, Preset] = {
    "F32": Preset(0, T.F32, T.F32),
    "F16": Preset(1, T.F16, T.F16),
    "BF16": Preset(32, T.BF16, T.BF16),
    "Q8_0": Preset(7, T.Q8_0, T.Q8_0),
    "Q4_0": Preset(2, T.Q4_0, ffn_down=with_importance(first_part(8, T.Q4_1))),
    "Q4_1": Preset(3, T.Q4_1),
    "Q5_0": Preset(8, T.Q5_0, ffn_down=with_importance(first_part(8, T.Q5_1))),
    "Q5_1": Preset(9, T.Q5_1),
    "Q2_K": Preset(
        10,
        T.Q2_K,
        attn_v=shared(T.Q4_K, T.Q3_K),
        attn_output=always(T.Q3_K),
        ffn_down=always(T.Q3_K),
    ),
    "Q2_K_S": Preset(21, T.Q2_K, attn_v=shared(T.Q4_K), ffn_down=first_part(8, T.Q4_K)),
    "Q3_K_S": Preset(11, T.Q3_K),
    "Q3_K_M": Preset(
        12,
        T.Q3_K,
        attn_v=lambda place: T.Q5_K if place.index < 2 else T.Q4_K,
        attn_output=always(T.Q4_K),
        ffn_down=first_part(16, T.Q5_K, T.Q4_K),
    ),
    "Q3_K_L": Preset(
        13,
        T.Q3_K,
        attn_v=always(T.Q5_K),
        attn_output=always(T.Q5_K),
        ffn_down=always(T.Q5_K),
    ),
    "Q4_K_S": Preset(14, T.Q4_K, attn_v=first(4, T.Q5_K), ffn_down=first_part(8, T.Q5_K)),
    "Q4_K_M": Preset(15, T.Q4_K, attn_v=more_bits(T.Q6_K), ffn_down=more_bits(T.Q6_K)),
    "Q5_K_S": Preset(16, T.Q5_K),
    "Q5_K_M": Preset(17, T.Q5_K, attn_v=more_bits(T.Q6_K), ffn_down=more_bits(T.Q6_K)),
    "Q6_K": Preset(18, T.Q6_K),
    "IQ4_NL": Preset(
        25,
        T.IQ4_NL,
        attn_v=shared(T.Q5_K),
        ffn_down=without_importance(first_part(8, T.Q5_K)),
    ),
    "IQ4_XS": Preset(
        30,
        T.IQ4_XS,
        attn_v=shared(T.Q5_K),
        ffn_down=without_importance(first_part(8, T.Q5_K)),
    ),
}

# llama-quantize's short names.
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# Two bits without knowing which weights matter give a file that does not work.
NEEDS_IMPORTANCE = ("Q2_K_S",)


def find_preset(name: str) -> tuple[str, Preset]:
    """The preset's full name and choices; UsageError listing the names for an unknown one."""
    full = ALIASES.get(name.upper(), name.upper())
    if full not in PRESETS:
        raise UsageError(f"unknown type {name!r}", f"one of {', '.join([*PRESETS, *ALIASES])}")
    return full, PRESETS[full]
