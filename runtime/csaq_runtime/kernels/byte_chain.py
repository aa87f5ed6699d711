"""AVX2 tiles: sums of byte products per token, of the lower and of the upper 8 rows."""

from collections.abc import Iterable
from typing import Any

from csaq_runtime.kernels.tile import Tile
from csaq_runtime.simd.chain import multiply_bytes, multiply_signed, pin, signed_codes, widen
from csaq_runtime.simd.vector import I16_X16, I32, I32_X8, as_bytes, join, parts, zeros


def byte_chains(tile: Tile, codes: Iterable[tuple[int, Any]], x: Any) -> list[list[Any]]:
    """Two vectors of int16 sums per token, of (word of x, codes from 0 on).

    No more codes than `longest_chain` allows.
    """
    b, sums = tile.b, [zeros(I16_X16)] * (2 * tile.n_token)
    # One token's two sums stay in registers anyway; pinned, they cost a third of the speed.
    hold = pin if tile.n_token > 1 else _leave
    (x,) = hold(b, [x])
    for word, vector in codes:
        halves = parts(b, as_bytes(b, vector), 2)
        for token in range(tile.n_token):
            x_codes = tile.x_word(I32, word, token, x, 8)
            for half, eight_rows in enumerate(halves):
                place = 2 * token + half
                sums[place] = b.add(sums[place], multiply_bytes(b, eight_rows, x_codes))
        sums = hold(b, sums)
    return [sums[start : start + 2] for start in range(0, len(sums), 2)]


def signed_halves(b: Any, biased: Any) -> list[tuple[Any, Any]]:
    """Codes stored plus 128 as `signed_sums` takes them."""
    return [signed_codes(b, half) for half in parts(b, as_bytes(b, biased), 2)]


def signed_sums(
    tile: Tile, codes: Iterable[tuple[int, list[tuple[Any, Any]]]], x: Any, factors: list[Any]
) -> list[Any]:
    """Σ factor · code · x in int32, one vector per token, of (word of x, `signed_halves`).

    `factors`: 16 int16 for each half.
    """
    b, sums = tile.b, [zeros(I32_X8)] * (2 * tile.n_token)
    hold = pin if tile.n_token > 1 else _leave
    (x,) = hold(b, [x])
    for word, halves in codes:
        for token in range(tile.n_token):
            x_codes = tile.x_word(I32, word, token, x, 8)
            for half, (eight_rows, factor) in enumerate(zip(halves, factors, strict=True)):
                product = widen(b, multiply_signed(b, eight_rows, x_codes), factor)
                sums[2 * token + half] = b.add(sums[2 * token + half], product)
        sums = hold(b, sums)
    return [join(b, sums[start : start + 2]) for start in range(0, len(sums), 2)]


def _leave(_: Any, values: list[Any]) -> list[Any]:
    """Where LLVM keeps values well by itself."""
    return values
