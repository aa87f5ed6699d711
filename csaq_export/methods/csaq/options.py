"""What a CSAQ conversion is asked for, and the ggml type behind a number of bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csaq_export.guidance import Calibrating
from csaq_export.type_choice import fitting
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType

SUPER_BLOCK, BLOCK = 256, 32
TYPES = {
    SUPER_BLOCK: {
        2: GGMLType.Q2_K, 3: GGMLType.Q3_K, 4: GGMLType.Q4_K, 5: GGMLType.Q5_K,
        6: GGMLType.Q6_K, 8: GGMLType.Q8_0, 16: GGMLType.F16,
    },
    BLOCK: {4: GGMLType.IQ4_NL, 5: GGMLType.Q5_0, 8: GGMLType.Q8_0, 16: GGMLType.F16},
}  # fmt: skip
"""Group size → bits → type. ggml's blocks fix how many weights share a scale."""
CODEBOOKS = {2: GGMLType.IQ2_XXS, 3: GGMLType.IQ3_XXS}
"""Types of 2.06 and 3.06 bits for small files, instead of 2.63 and 3.44."""
CODEBOOKS_BELOW = 3.5
"""Bits per weight of the file asked for."""
DEFAULT_BITS = (2, 4, 8, 16)


@dataclass(frozen=True)
class CsaqRequest:
    """`bits` a row may have, rising; `protected`: share of rows, by salience, of 8 at least.

    `similarity`: Jaccard similarity from which rows are one clique; `group_size`: weights that
    share a block of scales.
    """

    calibrating: Calibrating
    bpw: float
    bits: tuple[int, ...] = DEFAULT_BITS
    protected: float = 0.1
    similarity: float = 0.85
    group_size: int = SUPER_BLOCK
    n_sweep: int = 2
    work_dir: Path | None = None

    def types(self, n_col: int) -> dict[int, GGMLType]:
        """Bits → type for rows of `n_col` weights; of equal types only the first."""
        found: dict[int, GGMLType] = {}
        known = TYPES[self.group_size]
        if self.group_size == SUPER_BLOCK and self.bpw < CODEBOOKS_BELOW:
            known = known | CODEBOOKS
        for bits in self.bits:
            kind = fitting(known[bits], n_col)
            if all(LAYOUTS[kind].bpw > LAYOUTS[other].bpw for other in found.values()):
                found[bits] = kind
        return found


def read_bits(given: str, group_size: int) -> tuple[int, ...]:
    """What `--bits` says, e.g. `2,4,8,16`; UsageError for widths without a type."""
    known = TYPES.get(group_size)
    if known is None:
        raise UsageError(
            f"--group-size {group_size}: ggml's blocks fix how many weights share a scale",
            "256 (super-blocks of Q2_K … Q6_K) or 32 (IQ4_NL, Q5_0, Q8_0)",
        )
    try:
        bits = tuple(sorted({int(part) for part in given.split(",")}))
    except ValueError:
        raise UsageError(f"--bits {given}: not numbers", "write it like 2,4,8,16") from None
    _check(bits, known, given, group_size)
    return bits


def _check(bits: Sequence[int], known: dict[int, GGMLType], given: str, group_size: int) -> None:
    for width in bits:
        if width not in known:
            raise UsageError(
                f"--bits {given}: no type of {width} bits in blocks of {group_size}",
                f"there are {', '.join(map(str, known))}",
            )
