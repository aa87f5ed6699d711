"""Encoders and decoders of the ggml types in torch: `encode` and `decode`, and their stages.

Stages for callers that round differently: `fit` chooses scales, `round_codes`
(or `nearest_codes`, column by column) rounds, `CodeFormat.pack` packs. The codebook
types have `fit_grid`, `round_grid` and `GridFormat.pack`.

`csaq_export.quantize(model, calib, config)`, by its published name, is CSAQ on a model in memory:
the package can be called, and passes on to `csaq_export.hf.pipeline.quantize`.
"""

import sys
from types import ModuleType
from typing import Any

from csaq_export.quantize.block_params import BlockParams
from csaq_export.quantize.code_format import CODE_FORMATS, CodeFormat
from csaq_export.quantize.decode import decode
from csaq_export.quantize.encode import ENCODABLE, encode
from csaq_export.quantize.fit import fit
from csaq_export.quantize.grid_fit import fit_grid
from csaq_export.quantize.grid_format import GRID_FORMATS, GridFormat
from csaq_export.quantize.grid_rounding import dequantize_grid, round_grid
from csaq_export.quantize.rounding import dequantize_codes, nearest_codes, round_codes

__all__ = [
    "CODE_FORMATS",
    "ENCODABLE",
    "GRID_FORMATS",
    "BlockParams",
    "CodeFormat",
    "GridFormat",
    "decode",
    "dequantize_codes",
    "dequantize_grid",
    "encode",
    "fit",
    "fit_grid",
    "nearest_codes",
    "round_codes",
    "round_grid",
]


class _Callable(ModuleType):
    """This package as the function of its name; see `csaq_export.hf.pipeline.quantize`."""

    def __call__(
        self,
        model: Any,
        calib_data: Any,
        config: Any = None,
        tokenizer: Any = None,
        seq_len: int = 128,
        calibration_domain: str = "user_provided",
    ) -> Any:
        from csaq_export.hf.pipeline import quantize

        return quantize(model, calib_data, config, tokenizer, seq_len, calibration_domain)


sys.modules[__name__].__class__ = _Callable
