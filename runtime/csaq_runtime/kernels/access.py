"""Jitted code's view of the records that Python fills: from an address to typed fields."""

from typing import Any

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from csaq_runtime.kernels.jit import part
from csaq_runtime.kernels.record import INPUT, LAYER, MIXED, PART, ROW, STEP, TILE


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


@part
def inputs_at(address: int, n: int) -> Any:
    """The array of `INPUT` records at an address."""
    return numba.carray(_as_pointer(address), n, INPUT)


@part
def mixed_at(address: int) -> Any:
    """The `MIXED` record at an address."""
    return numba.carray(_as_pointer(address), 1, MIXED)[0]


@part
def parts_at(address: int, n: int) -> Any:
    """The array of `PART` records at an address."""
    return numba.carray(_as_pointer(address), n, PART)


@part
def int32_at(address: int, n: int) -> Any:
    """The array of int32 at an address."""
    return numba.carray(_as_pointer(address), n, np.int32)


@part
def floats_at(address: int, n: int) -> Any:
    """The array of float32 at an address."""
    return numba.carray(_as_pointer(address), n, np.float32)


@part
def int64_at(address: int, n: int) -> Any:
    """The array of int64 at an address."""
    return numba.carray(_as_pointer(address), n, np.int64)
