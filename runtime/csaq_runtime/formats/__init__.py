"""Block formats, defined once: sizes (`types`) and the reference dequantizers."""

from csaq_runtime.formats.types import LAYOUTS, BlockLayout, GGMLType, row_bytes

__all__ = ["LAYOUTS", "BlockLayout", "GGMLType", "row_bytes"]
