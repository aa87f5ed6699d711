"""Four-bit codes that index a fixed table of 16 levels: IQ4_NL, IQ4_XS, MXFP4.

Each function turns blocks [n_block, type_size] into exact integer levels, int8
[n_block, block_size], and float32 scales, one per 16 weights; their product is the weight.
Layouts: ggml/src/ggml-common.h.
"""

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats.bits import Bytes, Floats, half, unpack, words

Codes = NDArray[np.int8]

# ggml-common.h: kvalues_iq4nl.
IQ4_LEVELS = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
# E2M1 of the OCP microscaling (MX) specification 1.0, times 2 to be whole.
E2M1_DOUBLED = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)


def iq4_nl(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 16 bytes of nibbles."""
    codes = IQ4_LEVELS[unpack(blocks[:, 2:], 4, 16)]
    return codes, np.repeat(half(blocks, 0), 2, axis=1)


def iq4_xs_scales(blocks: Bytes) -> NDArray[np.int8]:
    """The eight 6-bit scales (offset 32): 2 high bits each in bytes 2–3, nibbles in 4–7."""
    scales = unpack(blocks[:, 4:8], 4, 1) | unpack(blocks[:, 2:4], 2, 1) << 4
    return scales.astype(np.int8) - np.int8(32)


def iq4_xs(blocks: Bytes) -> tuple[Codes, Floats]:
    """f16 d, 2 + 4 bytes of scales, 128 of nibbles; one scale per 32 weights."""
    codes = IQ4_LEVELS[unpack(blocks[:, 8:], 4, 16)]
    scales = half(blocks, 0) * iq4_xs_scales(blocks).astype(np.float32)
    return codes, np.repeat(scales, 2, axis=1)


def mxfp4(blocks: Bytes) -> tuple[Codes, Floats]:
    """A power of two as one exponent byte (E8M0), 16 bytes of nibbles."""
    exponent = blocks[:, :1].astype(np.uint32)
    # Half of 2^(e − 127), as the levels are doubled; below e = 2 that is subnormal.
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - 1) << 23)
    scales = words(bits.astype("<u4").view(np.uint8), "<f4").astype(np.float32)
    return E2M1_DOUBLED[unpack(blocks[:, 1:], 4, 16)], np.repeat(scales, 2, axis=1)
