"""Jitted code's view of the records that Python fills: from an address to typed fields."""

from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.record import LAYER, ROW, STEP, TILE


@intrinsic
def _as_pointer(context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@part
def step_at(address: int) -> Any:
    """The `STEP` record at an address."""
    return numba.carray(_as_pointer(address), 1, STEP)[0]


@part
def layers_at(address: int, n_layer: int) -> Any:
    """The array of `LAYER` records at an address."""
    return numba.carray(_as_pointer(address), n_layer, LAYER)


@part
def rows_at(address: int, n_token: int) -> Any:
    """The array of `ROW` records at an address."""
    return numba.carray(_as_pointer(address), n_token, ROW)


@part
def tiles_at(address: int, n_tile: int) -> Any:
    """The array of `TILE` records at an address."""
    return numba.carray(_as_pointer(address), n_tile, TILE)
