"""Weights in two planes: whole products to the last bit, drafts near them, memory as it was."""

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.compile import optimized
from csaq_runtime.kernels.dispatch import PLANE_FORMATS, kernel_for, kernel_on
from csaq_runtime.kernels.module import build_module
from csaq_runtime.kernels.plane_split import BF16_SPAN
from csaq_runtime.simd.target import host_target, parse_target
from csaq_runtime.weights import pack_matrix
from tests.runtime.kernel_cases import product, random_rows, random_x
from tests.runtime.plane_reference import planes
from tests.runtime.test_kernels_isa import HOST, SSE, on_x86

N_ROW, N_COL = 37, 192
TYPES = sorted(PLANE_FORMATS)
each_type = pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)


def rows_of(ggml_type: GGMLType) -> NDArray[np.uint8]:
    """Random rows; among BF16 lone zeros, a block of zeros, tiny numbers and negative zeros."""
    rows = random_rows(ggml_type, N_ROW, N_COL)
    if ggml_type is GGMLType.BF16:
        words = rows.view(np.uint16)
        words[3, 5], words[4, 7], words[5, :64], words[6, 64:128] = 0, 0x8000, 3, 0
        words[7, 9] = 0x8000 | (127 - 28) << 7 | 5
    return rows


@each_type
def test_whole_products_are_those_of_undivided_weights(ggml_type: GGMLType) -> None:
    rows, x = rows_of(ggml_type), random_x(13, N_COL)
    matrix = pack_matrix(rows, ggml_type, N_COL, planes=True)
    undivided = pack_matrix(rows, ggml_type, N_COL)
    assert matrix.draft is not None
    assert matrix.data.nbytes <= 1.01 * undivided.data.nbytes
    whole, _ = PLANE_FORMATS[ggml_type]
    for n in (1, 2, 4, 5, 13):
        y = product(kernel_on(whole, host_target()), matrix, x[:n], cuts=(1,))
        assert np.array_equal(y, product(kernel_for(ggml_type), undivided, x[:n]))


@each_type
def test_planes_are_those_that_numpy_splits(ggml_type: GGMLType) -> None:
    rows = rows_of(ggml_type)
    whole, _ = PLANE_FORMATS[ggml_type]
    matrix = pack_matrix(rows, ggml_type, N_COL, planes=True)
    assert matrix.data.tobytes() == planes(rows, ggml_type, whole).tobytes()


@each_type
def test_a_draft_is_near(ggml_type: GGMLType) -> None:
    rows, x = random_rows(ggml_type, N_ROW, N_COL), random_x(3, N_COL)
    matrix = pack_matrix(rows, ggml_type, N_COL, planes=True)
    assert matrix.draft is not None
    assert matrix.upper_bytes < 0.53 * matrix.data.nbytes
    exact = product(kernel_for(ggml_type), pack_matrix(rows, ggml_type, N_COL), x)
    difference = product(matrix.draft, matrix.upper, x) - exact
    assert 1e-3 < np.linalg.norm(difference) / np.linalg.norm(exact) < 0.15


def test_weights_that_cannot_be_divided_stay_in_one_piece() -> None:
    rows = random_rows(GGMLType.BF16, N_ROW, N_COL)
    words = rows.view(np.uint16)
    lowest = int((words[20, 64:128] & 0x7F80).max()) - (BF16_SPAN << 7)
    # Far below its neighbours, but not zero; and as near as a weight may be, or a bit below.
    for word, is_divided in ((1, False), (lowest + 1, True), (lowest, False)):
        words[20, 100] = word
        packed = pack_matrix(rows, GGMLType.BF16, N_COL, planes=True)
        assert (packed.draft is not None) is is_divided
    assert pack_matrix(rows[:, :266], GGMLType.BF16, 133, planes=True).draft is None


@on_x86
def test_sse2_gives_the_same_bits() -> None:
    rows, x = random_rows(GGMLType.Q8_0, N_ROW, N_COL), random_x(3, N_COL)
    matrix = pack_matrix(rows, GGMLType.Q8_0, N_COL, planes=True)
    target = parse_target(HOST.triple, "x86-64", SSE)
    for fmt, view in zip(PLANE_FORMATS[GGMLType.Q8_0], (matrix, matrix.upper), strict=True):
        mine, forced = (kernel_on(fmt, kind) for kind in (host_target(), target))
        assert np.array_equal(product(mine, view, x), product(forced, view, x))


@each_type
def test_arm_code_is_generated(ggml_type: GGMLType) -> None:
    target = parse_target("aarch64-unknown-linux-gnu", "generic", "+neon,+dotprod")
    whole, _ = PLANE_FORMATS[ggml_type]
    compiled, machine = optimized(build_module(whole, target), target)
    assert {GGMLType.Q8_0: "sdot", GGMLType.BF16: "fmla"}[ggml_type] in machine.emit_assembly(
        compiled
    )
