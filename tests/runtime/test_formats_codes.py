"""Integer codes times scales are the dequantized weights, and the codes stay in range."""

import numpy as np
import pytest

from csaq_runtime.formats import LAYOUTS, GGMLType, dequantize, integer_codes
from csaq_runtime.formats.codes import CODED

CODE_RANGE = {
    GGMLType.IQ1_S: (-9, 9),
    GGMLType.IQ1_M: (-9, 9),
    GGMLType.IQ2_XXS: (-43, 43),
    GGMLType.IQ2_XS: (-43, 43),
    GGMLType.IQ2_S: (-43, 43),
    GGMLType.IQ3_XXS: (-62, 62),
    GGMLType.IQ3_S: (-15, 15),
    GGMLType.IQ4_NL: (-127, 113),
    GGMLType.IQ4_XS: (-127, 113),
    GGMLType.MXFP4: (-12, 12),
    GGMLType.TQ1_0: (-1, 1),
    GGMLType.TQ2_0: (-1, 2),
}


@pytest.mark.parametrize("ggml_type", sorted(CODED))
def test_codes_times_scales_are_the_weights(ggml_type: GGMLType) -> None:
    rng = np.random.default_rng(ggml_type)
    data = rng.integers(0, 256, (40, LAYOUTS[ggml_type].type_size * 16), np.uint8)
    codes, scales = integer_codes(data, ggml_type)
    n_col = LAYOUTS[ggml_type].block_size * 16
    assert codes.shape == (40, n_col)
    assert scales.shape == (40, n_col // 16)
    assert (codes.dtype, scales.dtype) == (np.int8, np.float32)
    assert (codes.min(), codes.max()) == CODE_RANGE[ggml_type]
    with np.errstate(all="ignore"):
        product = codes.astype(np.float32) * np.repeat(scales, 16, axis=1)
    assert np.array_equal(product, dequantize(data, ggml_type), equal_nan=True)


def test_types_with_minima_are_refused() -> None:
    with pytest.raises(ValueError, match="Q4_K has no integer codes"):
        integer_codes(np.zeros((1, 144), np.uint8), GGMLType.Q4_K)
