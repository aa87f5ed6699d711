"""Every instruction set gives the same bits; what cannot run here is at least generated."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.compile import optimized
from csaq_runtime.kernels.dispatch import EXPANDED_TYPES, kernel_for, kernel_on, weight_format
from csaq_runtime.kernels.module import build_module
from csaq_runtime.simd.target import Target, host_target, parse_target
from csaq_runtime.weights import pack_matrix
from tests.runtime.kernel_cases import TYPES, columns_of, pack_x, product, random_rows, random_x

HOST = host_target()
SSE = "+sse,+sse2"
AVX2 = SSE + ",+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c"
ONE_CODES_TYPE = GGMLType.IQ2_S
COMPILED_TYPES = [t for t in TYPES if t not in EXPANDED_TYPES or t is ONE_CODES_TYPE]
on_x86 = pytest.mark.skipif(HOST.arch != "x86_64", reason="forces x86 instruction sets")


def same_bits(ggml_type: GGMLType, target: Target) -> bool:
    n_col = columns_of(ggml_type)
    matrix = pack_matrix(random_rows(ggml_type, 19, n_col), ggml_type, n_col)
    mine, forced = kernel_for(ggml_type), kernel_on(weight_format(ggml_type), target)
    x, equal = random_x(15, n_col), True
    for n_token in (15, 2, 1):  # a tile of every size
        some = x[:n_token]
        assert np.array_equal(pack_x(mine, some), pack_x(forced, some))
        equal &= np.array_equal(product(mine, matrix, some), product(forced, matrix, some))
    return equal


@on_x86
@pytest.mark.parametrize("ggml_type", COMPILED_TYPES, ids=lambda t: t.name)
def test_avx2_gives_the_same_bits(ggml_type: GGMLType) -> None:
    assert same_bits(ggml_type, parse_target(HOST.triple, "haswell", AVX2))


@on_x86
@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_1", "IQ4_NL", "Q2_K"])
def test_sse2_gives_the_same_bits(name: str) -> None:
    assert same_bits(GGMLType[name], parse_target(HOST.triple, "x86-64", SSE))


@on_x86
@pytest.mark.skipif(not HOST.has_vnni_256, reason="needs AVX-512VL VNNI or AVX-VNNI")
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q6_K"])
def test_vnni_on_32_bytes_gives_the_same_bits(name: str) -> None:
    features = AVX2 + ",+avx512f,+avx512vl,+avx512vnni"
    if "avxvnni" in HOST.features:
        features = AVX2 + ",+avxvnni"
    target = parse_target(HOST.triple, "x86-64-v3", features)
    assert not target.has_vnni_512
    assert same_bits(GGMLType[name], target)


@pytest.mark.parametrize(
    ("name", "features", "instruction"),
    [
        ("Q8_0", "+neon,+dotprod", "sdot"),
        ("Q4_0", "+neon,+dotprod,+i8mm", "usdot"),
        ("IQ4_NL", "+neon,+dotprod", "tbl"),
        ("Q4_1", "+neon", "mla"),
    ],
)
def test_arm_code_uses_its_instructions(name: str, features: str, instruction: str) -> None:
    target = parse_target("aarch64-unknown-linux-gnu", "generic", features)
    module = build_module(weight_format(GGMLType[name]), target)
    compiled, machine = optimized(module, target)
    assert re.search(rf"\b{instruction}\b", machine.emit_assembly(compiled))


@on_x86
def test_environment_forces_the_instruction_set() -> None:
    program = (
        "from csaq_runtime.simd.target import host_target as t; print(t().cpu, t().has_avx2,"
        "t().has_vnni_512)"
    )
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[2] / "runtime"), *sys.path])
    forced = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2, "PYTHONPATH": paths}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, env={**os.environ, **forced}, capture_output=True, check=True)
    assert run.stdout.split() == [b"haswell", b"True", b"False"]
