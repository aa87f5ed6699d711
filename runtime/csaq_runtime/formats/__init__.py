"""Block formats, defined once: sizes (`types`), reference dequantizers and integer codes."""

from csaq_runtime.formats.codes import integer_codes
from csaq_runtime.formats.reference import DEQUANTIZABLE, dequantize
from csaq_runtime.formats.types import LAYOUTS, BlockLayout, GGMLType, row_bytes

__all__ = [
    "DEQUANTIZABLE",
    "LAYOUTS",
    "BlockLayout",
    "GGMLType",
    "dequantize",
    "integer_codes",
    "row_bytes",
]
