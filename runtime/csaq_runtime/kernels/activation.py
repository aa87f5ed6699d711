"""How activations are laid out for the matmul kernels, and how many bytes that takes.

A token's row of float32 becomes blocks of 4-byte words: codes, scale and the
sums that the weight formats need. Tokens are packed in tiles of 8, 4, 3, 2
and 1, the largest first (13 tokens: 8 + 4 + 1); within a tile the same word of all its tokens
lies side by side, so that a kernel broadcasts them from one cache line:

    tile → block → word → token

Every tile takes `n_token` times the same bytes, so a tile that starts at token
t begins at `t * packed_activation_bytes(kind, n_col, 1)`. `activation_pack`
writes this layout, the `*_tiles` modules read it.
"""

from dataclasses import dataclass
from enum import Enum

TILE_SIZES = (8, 4, 3, 2, 1)
"""Tokens that one kernel call multiplies together, largest first."""

WORD = 4
"""Bytes per word."""


class Activation(Enum):
    """What a weight format multiplies with."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"  # float32 rounded to float16, as ggml does for F16 weights
    BLOCK_32 = "block_32"  # ggml's Q8_0 / Q8_1
    BLOCK_256 = "block_256"  # ggml's Q8_K


@dataclass(frozen=True)
class ActivationLayout:
    """`n_word` words for every `block_size` columns of one token."""

    block_size: int
    n_word: int


FLOAT_LAYOUT = ActivationLayout(block_size=4, n_word=4)
"""Four float32; the last block is padded with zeros."""


class Block32:
    """Word numbers in a 32-column block: int8 codes = rint(127 x / amax), four per word."""

    SCALE = 8  # float32: amax / 127, rounded to float16
    SCALED_SUM = 9  # float32: amax / 127 · Σ codes, rounded to float16
    MINUS_8_SUM = 10  # int32: -8 · Σ codes, and so on: what an offset in the weights adds up to
    MINUS_16_SUM = 11
    MINUS_128_SUM = 12
    LAYOUT = ActivationLayout(block_size=32, n_word=13)


class Block256:
    """Word numbers in a 256-column block: int8 codes = rint(127 x / amax), four per word.

    Sums come as int16 pairs in the order (0,2) (1,3) (4,6) (5,7) …, which is how
    one mask splits four packed scale bytes.
    """

    SCALE = 64  # float32: amax / 127
    SUM_32_PAIRS = 65  # 4 words: Σ of 32 codes each
    SUM_16_PAIRS = 69  # 8 words: Σ of 16 codes each
    MINUS_128_SUM_16 = 77  # 16 words, int32: -128 · Σ of 16 codes each
    LAYOUT = ActivationLayout(block_size=256, n_word=93)


LAYOUTS = {
    Activation.FLOAT32: FLOAT_LAYOUT,
    Activation.FLOAT16: FLOAT_LAYOUT,
    Activation.BLOCK_32: Block32.LAYOUT,
    Activation.BLOCK_256: Block256.LAYOUT,
}


def packed_activation_bytes(kind: Activation, n_col: int, n_token: int) -> int:
    """Bytes that `n_token` packed rows of `n_col` columns take."""
    layout = LAYOUTS[kind]
    n_block = -(-n_col // layout.block_size)
    return n_token * n_block * layout.n_word * WORD
