"""float16 ↔ float32 without hardware help equals NumPy for every value."""

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from csaq_runtime.kernels.compile import load_module
from csaq_runtime.kernels.module import new_function
from csaq_runtime.simd.convert import float_to_half, half_to_float
from csaq_runtime.simd.target import Target, host_target, parse_target
from csaq_runtime.simd.vector import F32_X16, I16_X16, counted_loop, integer, load, scaled, store

HOST = host_target()
PLAIN = parse_target(HOST.triple, HOST.cpu if HOST.is_arm else "x86-64", "+sse,+sse2")


def convert_all(target: Target, values: np.ndarray, to_half: bool) -> np.ndarray:
    """Run one conversion over an array whose length is a multiple of 16."""

    def build() -> ir.Module:
        module = ir.Module("convert")
        module.triple = target.triple
        function, b = new_function(module, "convert", 3)
        source, out, count = function.args
        with counted_loop(b, integer(0), count) as index:
            if to_half:
                value = load(b, scaled(b, source, index, 64), F32_X16)
                store(b, float_to_half(b, target, value), scaled(b, out, index, 32))
            else:
                bits = load(b, scaled(b, source, index, 32), I16_X16)
                store(b, half_to_float(b, target, bits), scaled(b, out, index, 64))
        b.ret_void()
        return module

    address = load_module(f"convert-{to_half}", target, build)("convert")
    out = np.zeros(values.size, np.uint16 if to_half else np.float32)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)
    function(values.ctypes.data, out.ctypes.data, values.size // 16)
    return out


@pytest.mark.parametrize("target", [PLAIN, HOST], ids=["plain", "host"])
def test_every_half_becomes_its_float(target: Target) -> None:
    halves = np.arange(65536, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(convert_all(target, halves, to_half=False), expected)


@pytest.mark.parametrize("target", [PLAIN, HOST], ids=["plain", "host"])
def test_floats_round_to_the_nearest_even_half(target: Target) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[:-1] + halves[1:]) / np.float32(2)
    around = np.concatenate([np.nextafter(between, np.float32(side)) for side in (0, 1e6)])
    edges = np.array([65519.996, 65520, 1e30, np.inf, 1e-40, 0, 2**-25, 2**-24], np.float32)
    values = np.concatenate([halves, between, around, edges])
    values = np.concatenate([values, -values])
    values = np.concatenate([values, np.zeros(-len(values) % 16, np.float32)])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(convert_all(target, values, to_half=True), expected)


def test_nan_stays_nan() -> None:
    nan = np.full(16, np.nan, np.float32)
    half = convert_all(PLAIN, nan, to_half=True).view(np.float16)
    assert np.isnan(half).all()
