"""AVX2 tiles: int16 sums of byte products per token, of the lower and of the upper 8 rows."""

from collections.abc import Callable, Iterable
from typing import Any

from csaq_runtime.kernels.tile import Tile
from csaq_runtime.simd.chain import pin
from csaq_runtime.simd.vector import I16_X16, I32, as_bytes, parts, zeros


def byte_chains(
    tile: Tile, codes: Iterable[tuple[int, Any]], x: Any, product: Callable[..., Any]
) -> list[list[Any]]:
    """Two vectors of int16 sums per token, of (word of x, codes); `product` is one of `simd.chain`.

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
                sums[place] = b.add(sums[place], product(b, eight_rows, x_codes))
        sums = hold(b, sums)
    return [sums[start : start + 2] for start in range(0, len(sums), 2)]


def _leave(_: Any, values: list[Any]) -> list[Any]:
    """Where LLVM keeps values well by itself."""
    return values
