"""Rules that give a tensor more or fewer bits by its place in the model.

`presets.py` puts them together; each is one of the patterns of llama.cpp's
src/llama-quant.cpp.
"""

from collections.abc import Callable
from dataclasses import dataclass

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


def first(n: int, chosen: T, rest: T | None = None) -> Rule:
    """The first `n` tensors; `rest` for the others."""
    return lambda place: chosen if place.index < n else rest


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


def middle(chosen: T) -> Rule:
    """All layers but the first and last eighth."""

    def rule(place: Place) -> T | None:
        inside = place.count // 8 <= place.index < 7 * place.count // 8
        return chosen if inside else None

    return rule
