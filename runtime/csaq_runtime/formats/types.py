"""The ggml tensor types: ids, names and block sizes, as in ggml.h and ggml-common.h.

Everything that reads or writes packed bytes takes its sizes from here.
"""

from dataclasses import dataclass
from enum import IntEnum


class GGMLType(IntEnum):
    """Type id as stored in a GGUF tensor info (`enum ggml_type`)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q8_1 = 9
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    Q8_K = 15
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    I8 = 24
    I16 = 25
    I32 = 26
    I64 = 27
    F64 = 28
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39


@dataclass(frozen=True)
class BlockLayout:
    """How a type packs a row: `block_size` weights in `type_size` bytes."""

    block_size: int
    type_size: int

    @property
    def bpw(self) -> float:
        """Bits per weight, scales included."""
        return 8 * self.type_size / self.block_size


LAYOUTS: dict[GGMLType, BlockLayout] = {
    GGMLType.F32: BlockLayout(1, 4),
    GGMLType.F16: BlockLayout(1, 2),
    GGMLType.BF16: BlockLayout(1, 2),
    GGMLType.F64: BlockLayout(1, 8),
    GGMLType.I8: BlockLayout(1, 1),
    GGMLType.I16: BlockLayout(1, 2),
    GGMLType.I32: BlockLayout(1, 4),
    GGMLType.I64: BlockLayout(1, 8),
    GGMLType.Q4_0: BlockLayout(32, 2 + 16),
    GGMLType.Q4_1: BlockLayout(32, 2 + 2 + 16),
    GGMLType.Q5_0: BlockLayout(32, 2 + 4 + 16),
    GGMLType.Q5_1: BlockLayout(32, 2 + 2 + 4 + 16),
    GGMLType.Q8_0: BlockLayout(32, 2 + 32),
    GGMLType.Q8_1: BlockLayout(32, 2 + 2 + 32),
    GGMLType.Q2_K: BlockLayout(256, 16 + 64 + 2 + 2),
    GGMLType.Q3_K: BlockLayout(256, 32 + 64 + 12 + 2),
    GGMLType.Q4_K: BlockLayout(256, 2 + 2 + 12 + 128),
    GGMLType.Q5_K: BlockLayout(256, 2 + 2 + 12 + 32 + 128),
    GGMLType.Q6_K: BlockLayout(256, 128 + 64 + 16 + 2),
    GGMLType.Q8_K: BlockLayout(256, 4 + 256 + 32),
    GGMLType.IQ1_S: BlockLayout(256, 2 + 32 + 16),
    GGMLType.IQ1_M: BlockLayout(256, 32 + 16 + 8),
    GGMLType.IQ2_XXS: BlockLayout(256, 2 + 64),
    GGMLType.IQ2_XS: BlockLayout(256, 2 + 64 + 8),
    GGMLType.IQ2_S: BlockLayout(256, 2 + 64 + 8 + 8),
    GGMLType.IQ3_XXS: BlockLayout(256, 2 + 96),
    GGMLType.IQ3_S: BlockLayout(256, 2 + 64 + 8 + 32 + 4),
    GGMLType.IQ4_NL: BlockLayout(32, 2 + 16),
    GGMLType.IQ4_XS: BlockLayout(256, 2 + 2 + 4 + 128),
    GGMLType.TQ1_0: BlockLayout(256, 48 + 4 + 2),
    GGMLType.TQ2_0: BlockLayout(256, 64 + 2),
    GGMLType.MXFP4: BlockLayout(32, 1 + 16),
}


def row_bytes(ggml_type: GGMLType, n_col: int) -> int:
    """Bytes of one row of `n_col` weights; raises ValueError if blocks do not fit evenly."""
    layout = LAYOUTS[ggml_type]
    if n_col % layout.block_size:
        raise ValueError(f"{n_col} is not a multiple of {layout.block_size} ({ggml_type.name})")
    return n_col // layout.block_size * layout.type_size
