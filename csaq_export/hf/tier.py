"""One tier of a matrix: rows that share a number of bits, and the ggml type that stores them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes

TIER_TYPES: dict[int, tuple[GGMLType, ...]] = {
    2: (GGMLType.Q2_K, GGMLType.Q4_0, GGMLType.F16),
    4: (GGMLType.Q4_K, GGMLType.Q4_0, GGMLType.F16),
    8: (GGMLType.Q8_0, GGMLType.F16),
    16: (GGMLType.F16,),
}
BITS = tuple(TIER_TYPES)


@dataclass(frozen=True)
class TierShape:
    """`n_row` rows stored as `type`; `bits` (2, 4, 8 or 16) is the width they were given."""

    bits: int
    type: GGMLType
    n_row: int

    @property
    def name(self) -> str:
        """As in the rows layout: `b16`, `b8`, `b4`, `b2`."""
        return f"b{self.bits}"

    def n_bytes(self, n_col: int) -> int:
        """Packed bytes of the tier for rows of `n_col` weights."""
        return self.n_row * row_bytes(self.type, n_col)


def tier_type(bits: int, n_col: int) -> GGMLType:
    """The ggml type of rows of `n_col` weights at `bits`: the first whose blocks divide them."""
    return next(t for t in TIER_TYPES[bits] if n_col % LAYOUTS[t].block_size == 0)


def as_json(tiers: Sequence[TierShape]) -> list[list[Any]]:
    """`[[8, "Q8_0", 12], …]`, for config.json."""
    return [[tier.bits, tier.type.name, tier.n_row] for tier in tiers]


def from_json(values: Any, where: str) -> tuple[TierShape, ...]:
    """The tiers that `as_json` wrote; UsageError naming `where` for anything else."""
    if not isinstance(values, list | tuple) or not values:
        raise UsageError(f"{where}: not a list of tiers")
    tiers = tuple(_tier(value, where) for value in values)
    if [tier.bits for tier in tiers] != sorted({tier.bits for tier in tiers}, reverse=True):
        raise UsageError(f"{where}: tiers must go down from 16 bits, each once")
    return tiers


def _tier(value: Any, where: str) -> TierShape:
    if isinstance(value, TierShape):
        return value
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise UsageError(f"{where}: {value!r} is not [bits, type, rows]")
    bits, type_name, n_row = value
    if bits not in BITS:
        raise UsageError(f"{where}: {bits!r} bits; tiers have {', '.join(map(str, BITS))}")
    if not isinstance(type_name, str) or type_name not in GGMLType.__members__:
        raise UsageError(f"{where}: unknown type {type_name!r}")
    if GGMLType[type_name] not in LAYOUTS or type(n_row) is not int or not 0 < n_row < 1 << 31:
        raise UsageError(f"{where}: {n_row!r} rows of {type_name}")
    return TierShape(bits, GGMLType[type_name], n_row)
