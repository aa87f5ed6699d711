"""A row's block of the GGUF file → its upper and its lower plane (`plane_tiles` multiplies them).

A splitter is given the address of a block and returns its values in the order of the format's
fields: scale, words of upper nibbles, words of the lower plane; and a number that is not 0 where
the block cannot be divided.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from csaq_runtime.simd.vector import (
    I16,
    I32,
    I64,
    call_llvm,
    constant,
    integer,
    load,
    shuffle,
    splat,
)

BF16_COLUMNS = 64
"""Columns that share an exponent, the largest of theirs."""

BF16_SPAN = 31
"""How far below it an exponent may be."""

BF16_LEVELS = (1, 4, 6, 9, 12, 15, 20, 26)
"""Magnitudes of a draft by the lower bits of its nibble, in 1/16 of the shared power of two.

The best eight for normally distributed weights (Lloyd-Max, σ = 9.4 in blocks of 64).
"""

Units = tuple[list[Any], Any]

_I8 = ir.IntType(8)
_I8_X64, _I16_X64 = ir.VectorType(_I8, 64), ir.VectorType(I16, 64)
_I32_X4, _I32_X8 = ir.VectorType(I32, 4), ir.VectorType(I32, 8)
_I64_X8, _I64_X16 = ir.VectorType(I64, 8), ir.VectorType(I64, 16)
_LOWER, _UPPER = 0x0F0F0F0F, 0xF0F0F0F0


def split_q8_0(b: Any, source: Any) -> Units:
    """Codes + 128; word k holds bytes of columns 4k … and, beside them, 16 columns further on."""
    bias = constant(_I32_X4, 0x80808080)
    first, second = (b.xor(load(b, source, _I32_X4, place), bias) for place in (2, 18))
    four, lower, upper = (constant(_I32_X4, value) for value in (4, _LOWER, _UPPER))
    high = b.or_(b.and_(b.lshr(first, four), lower), b.and_(second, upper))
    low = b.or_(b.and_(first, lower), b.and_(b.shl(second, four), upper))
    return [load(b, source, I16), *_lanes(b, high), *_lanes(b, low)], integer(0)


def split_bf16(b: Any, source: Any) -> Units:
    """The shared exponent; signs and nearest levels; exponents above the lowest, and mantissas."""
    words = load(b, source, _I16_X64)
    magnitudes = b.and_(words, constant(_I16_X64, 0x7FFF))
    seven, zero = constant(_I16_X64, 7), constant(_I16_X64, 0)
    shared = call_llvm(b, "llvm.vector.reduce.umax.v64i16", I16, [b.lshr(magnitudes, seven)])
    lowest = b.shl(b.sub(shared, I16(BF16_SPAN)), I16(7))
    is_weight = b.icmp_unsigned("!=", magnitudes, zero)
    rest = b.select(is_weight, b.sub(magnitudes, splat(b, lowest, 64)), zero)
    too_low = b.and_(is_weight, b.icmp_unsigned("==", rest, zero))
    too_far = b.icmp_unsigned(">", rest, constant(_I16_X64, (BF16_SPAN << 7) + 127))
    bad = b.bitcast(b.or_(too_low, too_far), I64)
    signs = b.and_(b.lshr(words, constant(_I16_X64, 12)), constant(_I16_X64, 8))
    nibbles = b.or_(_level(b, rest), signs)
    units = [b.trunc(shared, _I8), *_words_of_nibbles(b, nibbles), *_words_of_twelve(b, rest)]
    return units, bad


def _level(b: Any, rest: Any) -> Any:
    """The nearest of `BF16_LEVELS` to every number of 5 bits of exponent and 7 of mantissa."""
    level = constant(_I16_X64, 0)
    for threshold in level_thresholds():
        is_above = b.icmp_signed(">=", rest, constant(_I16_X64, threshold))
        level = b.sub(level, b.sext(is_above, _I16_X64))
    return level


def level_thresholds() -> list[int]:
    """For every level but the first, the least number that is nearer to it than to the one below.

    Halfway between two it belongs to the lower one.
    """
    codes = np.arange((BF16_SPAN + 1) << 7)
    values = 16 * (1 + (codes & 127) / 128) * 2.0 ** ((codes >> 7) - BF16_SPAN)
    levels = np.array(BF16_LEVELS)
    middles = (levels[1:] + levels[:-1]) / 2
    return [int(place) for place in np.searchsorted(values, middles, side="right")]


def _words_of_nibbles(b: Any, nibbles: Any) -> list[Any]:
    """64 nibbles → 8 words: four columns, and in the upper nibbles the four that follow."""
    eights = b.bitcast(b.trunc(nibbles, _I8_X64), _I64_X8)
    words = b.trunc(b.or_(eights, b.lshr(eights, constant(_I64_X8, 28))), _I32_X8)
    return _lanes(b, words)


def _words_of_twelve(b: Any, rest: Any) -> list[Any]:
    """64 numbers of 12 bits → 24 words, those of eight columns in opposite order.

    Three words have two each of three half words of nibbles, and in their upper bits a fourth's.
    """
    fours = b.bitcast(rest, _I64_X16)
    first, second = (shuffle(b, fours, fours, list(range(odd, 16, 2))) for odd in (0, 1))
    later = [b.lshr(four, constant(_I64_X8, 16)) for four in (first, second)]
    *numbers, fourth = [_even_columns(b, four) for four in (first, second, *later)]
    words = []
    for index, number in enumerate(numbers):
        part = b.and_(b.lshr(fourth, constant(_I32_X8, 4 * index)), constant(_I32_X8, 0x000F000F))
        words.append(_lanes(b, b.or_(number, b.shl(part, constant(_I32_X8, 12)))))
    return [word[eight] for eight in reversed(range(8)) for word in words]


def _even_columns(b: Any, four: Any) -> Any:
    """Columns 0 and 2 of four 16-bit numbers, side by side: 8 int64 → 8 int32."""
    low = b.and_(four, constant(_I64_X8, 0xFFFF))
    high = b.and_(b.lshr(four, constant(_I64_X8, 16)), constant(_I64_X8, 0xFFFF0000))
    return b.trunc(b.or_(low, high), _I32_X8)


def _lanes(b: Any, vector: Any) -> list[Any]:
    return [b.extract_element(vector, I32(lane)) for lane in range(vector.type.count)]
