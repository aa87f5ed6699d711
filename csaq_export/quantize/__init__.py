"""Encoders and decoders of the ggml types in torch: `encode` and `decode`, and their stages.

Stages for callers that round differently: `fit` chooses scales, `round_codes`
(or `nearest_codes`, column by column) rounds, `CodeFormat.pack` packs.
"""

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CODE_FORMATS, CodeFormat
from csaq_export.quantize.decode import decode
from csaq_export.quantize.encode import encode
from csaq_export.quantize.fit import fit
from csaq_export.quantize.rounding import dequantize_codes, nearest_codes, round_codes

__all__ = [
    "CODE_FORMATS",
    "BlockParams",
    "CodeFormat",
    "decode",
    "dequantize_codes",
    "encode",
    "fit",
    "nearest_codes",
    "round_codes",
]
