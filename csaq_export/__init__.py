"""Hugging Face causal LM → GGUF: calibrate, budget, quantize, write (torch).

CSAQ for models in memory, by the names csaq-quant publishes, is loaded when it is asked for:
`from csaq_export import quantize, CSAQConfig`. Importing the package lets
`AutoModelForCausalLM.from_pretrained` read CSAQ folders and imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from csaq_export.hf.registration import register_with_transformers

if TYPE_CHECKING:
    from csaq_export.hf.calibration_data import build_calibration_data
    from csaq_export.hf.config import CSAQConfig
    from csaq_export.hf.linear import CSAQLinear
    from csaq_export.hf.profiler import CausalProfiler
    from csaq_export.hf.quantized_weight import QuantizedWeight

# Name → module that defines it.
_PLACES = {
    "CausalProfiler": "csaq_export.hf.profiler",
    "CSAQConfig": "csaq_export.hf.config",
    "CSAQLinear": "csaq_export.hf.linear",
    "QuantizedWeight": "csaq_export.hf.quantized_weight",
    "build_calibration_data": "csaq_export.hf.calibration_data",
}

__all__ = [
    "CSAQConfig",
    "CSAQLinear",
    "CausalProfiler",
    "QuantizedWeight",
    "build_calibration_data",
]

register_with_transformers()


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
