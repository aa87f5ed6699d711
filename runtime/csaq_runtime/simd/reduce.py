"""All lanes of a vector → one scalar, in a fixed pairwise order on every CPU."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from csaq_runtime.simd.vector import I32, parts


def maximum(b: Any, x: Any, y: Any) -> Any:
    """Lane-wise larger float32; y where either is NaN."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def reduce_max(b: Any, vector: Any) -> Any:
    """Largest float32 lane."""
    return _reduce(b, vector, lambda x, y: maximum(b, x, y))


def reduce_sum(b: Any, vector: Any) -> Any:
    """Sum of int32 lanes."""
    return _reduce(b, vector, b.add)


def _reduce(b: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    while vector.type.count > 1:
        vector = combine(*parts(b, vector, 2))
    return b.extract_element(vector, ir.Constant(I32, 0))
