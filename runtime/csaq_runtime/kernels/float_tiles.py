"""Weights that are floats already: F32, F16, BF16, four columns per block."""

from collections.abc import Callable
from typing import Any

from csaq_runtime.kernels.activation import Activation
from csaq_runtime.kernels.tile import N_ROW, Field, Tile, WeightFormat
from csaq_runtime.simd.convert import bfloat_to_float
from csaq_runtime.simd.vector import F32_X16, I16_X16, integer

N_COLUMN = 4


def _emit(column: Callable[[Tile, int], Any]) -> Callable[[Tile], None]:
    def emit(tile: Tile) -> None:
        tile.fetch_ahead(integer(0), 1)
        for index in range(N_COLUMN):
            weights = column(tile, index)
            for token in range(tile.n_token):
                tile.add(token, weights, tile.x_float(index, token))

    return emit


def _f32(tile: Tile, column: int) -> Any:
    return tile.weight(F32_X16, column * N_ROW * 4)


def _f16(tile: Tile, column: int) -> Any:
    return tile.half(column * N_ROW * 2)


def _bf16(tile: Tile, column: int) -> Any:
    return bfloat_to_float(tile.b, tile.weight(I16_X16, column * N_ROW * 2))


def _format(
    name: str, n_byte: int, activation: Activation, column: Callable[[Tile, int], Any]
) -> WeightFormat:
    size = N_COLUMN * n_byte
    return WeightFormat(name, activation, N_COLUMN, size, (Field(0, size, n_byte),), _emit(column))


F32_FORMAT = _format("F32", 4, Activation.FLOAT32, _f32)
F16_FORMAT = _format("F16", 2, Activation.FLOAT16, _f16)
BF16_FORMAT = _format("BF16", 2, Activation.FLOAT32, _bf16)
