"""Hugging Face causal LM → GGUF: calibrate, budget, quantize, write (torch).

CSAQ for models in memory, by the names csaq-quant publishes, is loaded when it is asked for:
`from csaq_export import quantize, CSAQConfig`. Importing the package lets
`AutoModelForCausalLM.from_pretrained` read CSAQ folders and imports nothing heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from csaq_export.hf.registration import register_with_transformers

if TYPE_CHECKING:
    from csaq_export.hf.apply import apply_csaq
    from csaq_export.hf.calibration_data import build_calibration_data
    from csaq_export.hf.clique_budget import solve_clique_budget
    from csaq_export.hf.config import CSAQConfig
    from csaq_export.hf.export import export_csaq_model
    from csaq_export.hf.linear import CSAQLinear
    from csaq_export.hf.perplexity import compute_perplexity
    from csaq_export.hf.pipeline import quantize
    from csaq_export.hf.profiler import CausalProfiler
    from csaq_export.hf.quantized_weight import QuantizedWeight
    from csaq_export.hf.report import generate_csaq_report
    from csaq_export.hf.speculative.engine import CSAQInferenceEngine
    from csaq_export.hf.speculative.report import SpeculativeReport

# Name → module of `csaq_export.hf` that defines it. `quantize` is a package of its own that can be
# called, so that the published name and the encoders' place are one.
_PLACES = {
    "CSAQConfig": "config",
    "CSAQInferenceEngine": "speculative.engine",
    "CSAQLinear": "linear",
    "CausalProfiler": "profiler",
    "QuantizedWeight": "quantized_weight",
    "SpeculativeReport": "speculative.report",
    "apply_csaq": "apply",
    "build_calibration_data": "calibration_data",
    "compute_perplexity": "perplexity",
    "export_csaq_model": "export",
    "generate_csaq_report": "report",
    "solve_clique_budget": "clique_budget",
}

__all__ = [
    "CSAQConfig",
    "CSAQInferenceEngine",
    "CSAQLinear",
    "CausalProfiler",
    "QuantizedWeight",
    "SpeculativeReport",
    "apply_csaq",
    "build_calibration_data",
    "compute_perplexity",
    "export_csaq_model",
    "generate_csaq_report",
    "quantize",
    "solve_clique_budget",
]

register_with_transformers()


def __getattr__(name: str) -> Any:
    if name == "quantize":
        return import_module("csaq_export.quantize")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"csaq_export.hf.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
