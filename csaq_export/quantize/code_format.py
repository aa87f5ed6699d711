"""The block formats whose weights are rounded one by one: levels, sub-blocks, ranges and layouts.

A small table that fitting (`fit`), rounding (`rounding`) and packing read; the
formats that round several weights at once to a grid are in `grid_format`.
"""

from dataclasses import dataclass

from csaq_export.quantize import iq4_layout, k_layout, legacy_layout, mxfp4_layout
from csaq_export.quantize.legacy_layout import Pack, Unpack
from csaq_runtime.formats import GGMLType

# kvalues_iq4nl of ggml-common.h: the levels of IQ4_NL and IQ4_XS.
IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class CodeFormat:
    """One format: `levels[code]` times the sub-block's scale, minus its offset, is the weight.

    `scale_range` and `min_range` bound the integers kept per sub-block (both
    inclusive); (1, 1) means that the half-precision value itself is the scale, or one
    that must be a `power_of_two`.
    """

    block_size: int
    n_sub: int
    levels: tuple[int, ...]
    scale_range: tuple[int, int]
    min_range: tuple[int, int] | None
    pack: Pack
    unpack: Unpack
    power_of_two: bool = False

    @property
    def sub_size(self) -> int:
        """Weights that share one scale."""
        return self.block_size // self.n_sub

    @property
    def is_uniform(self) -> bool:
        """Whether neighbouring levels are one step apart."""
        return self.levels[-1] - self.levels[0] == len(self.levels) - 1


def _span(low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1))


_ONE = (1, 1)
_4BIT = (legacy_layout.pack_4bit, legacy_layout.unpack_4bit)
_5BIT = (legacy_layout.pack_5bit, legacy_layout.unpack_5bit)
_Q8_0 = (legacy_layout.pack_q8_0, legacy_layout.unpack_q8_0)
_Q2_K = (k_layout.pack_q2_k, k_layout.unpack_q2_k)
_Q3_K = (k_layout.pack_q3_k, k_layout.unpack_q3_k)
_Q4_K = (k_layout.pack_q4_k, k_layout.unpack_q4_k)
_Q5_K = (k_layout.pack_q5_k, k_layout.unpack_q5_k)
_Q6_K = (k_layout.pack_q6_k, k_layout.unpack_q6_k)
_MXFP4 = (mxfp4_layout.pack_mxfp4, mxfp4_layout.unpack_mxfp4)
_IQ4_XS = (iq4_layout.pack_iq4_xs, iq4_layout.unpack_iq4_xs)

CODE_FORMATS: dict[GGMLType, CodeFormat] = {
    GGMLType.Q4_0: CodeFormat(32, 1, _span(-8, 7), _ONE, None, *_4BIT),
    GGMLType.Q4_1: CodeFormat(32, 1, _span(0, 15), _ONE, _ONE, *_4BIT),
    GGMLType.Q5_0: CodeFormat(32, 1, _span(-16, 15), _ONE, None, *_5BIT),
    GGMLType.Q5_1: CodeFormat(32, 1, _span(0, 31), _ONE, _ONE, *_5BIT),
    GGMLType.Q8_0: CodeFormat(32, 1, _span(-128, 127), _ONE, None, *_Q8_0),
    GGMLType.Q2_K: CodeFormat(256, 16, _span(0, 3), (0, 15), (0, 15), *_Q2_K),
    GGMLType.Q3_K: CodeFormat(256, 16, _span(-4, 3), (-32, 31), None, *_Q3_K),
    GGMLType.Q4_K: CodeFormat(256, 8, _span(0, 15), (0, 63), (0, 63), *_Q4_K),
    GGMLType.Q5_K: CodeFormat(256, 8, _span(0, 31), (0, 63), (0, 63), *_Q5_K),
    GGMLType.Q6_K: CodeFormat(256, 16, _span(-32, 31), (-128, 127), None, *_Q6_K),
    GGMLType.IQ4_NL: CodeFormat(32, 1, IQ4_LEVELS, _ONE, None, *_4BIT),
    GGMLType.IQ4_XS: CodeFormat(256, 8, IQ4_LEVELS, (-32, 31), None, *_IQ4_XS),
    GGMLType.MXFP4: CodeFormat(32, 1, mxfp4_layout.LEVELS, _ONE, None, *_MXFP4, power_of_two=True),
}
