"""Exact integer codes and scales of the types whose weight is code × scale.

`csaq_runtime.weights` repacks the codebook, ternary and table types through this
as bytes with one scale per 16 weights; `reference.dequantize` multiplies it out.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.formats import iq_quants, nonlinear, ternary
from csaq_runtime.formats.bits import Bytes, Floats
from csaq_runtime.formats.types import LAYOUTS, GGMLType

CODED: dict[GGMLType, Callable[[Bytes], tuple[NDArray[np.int8], Floats]]] = {
    GGMLType.IQ1_S: iq_quants.iq1_s,
    GGMLType.IQ1_M: iq_quants.iq1_m,
    GGMLType.IQ2_XXS: iq_quants.iq2_xxs,
    GGMLType.IQ2_XS: iq_quants.iq2_xs,
    GGMLType.IQ2_S: iq_quants.iq2_s,
    GGMLType.IQ3_XXS: iq_quants.iq3_xxs,
    GGMLType.IQ3_S: iq_quants.iq3_s,
    GGMLType.IQ4_NL: nonlinear.iq4_nl,
    GGMLType.IQ4_XS: nonlinear.iq4_xs,
    GGMLType.MXFP4: nonlinear.mxfp4,
    GGMLType.TQ1_0: ternary.tq1_0,
    GGMLType.TQ2_0: ternary.tq2_0,
}


def integer_codes(data: Bytes, ggml_type: GGMLType) -> tuple[NDArray[np.int8], Floats]:
    """Codes int8 [n_row, n_col] and scales float32 [n_row, n_col // 16] of rows [n_row, row_bytes].

    codes × scales (each repeated 16 times) equals the weights bit for bit. Codes
    lie in −127 … 113. Raises ValueError for a type not in `CODED`.
    """
    if ggml_type not in CODED:
        raise ValueError(f"{ggml_type.name} has no integer codes with one scale per 16 weights")
    blocks = np.ascontiguousarray(data).reshape(-1, LAYOUTS[ggml_type].type_size)
    with np.errstate(over="ignore", invalid="ignore"):
        codes, scales = CODED[ggml_type](blocks)
    return codes.reshape(len(data), -1), scales.reshape(len(data), -1)
