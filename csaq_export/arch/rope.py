"""Rotary position settings of config.json → `rope.*` keys and per-frequency factors.

Read from `rope_parameters` (transformers ≥ 5) or `rope_scaling` and `rope_theta`
(before). Sources of the rules: transformers' modeling_rope_utils.py and llama.cpp's
conversion/base.py, conversion/llama.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.config import Config
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_runtime.errors import ModelError

DEFAULT_THETA = 10000.0
SUPPORTED = ("default", "linear", "yarn", "llama3")
YARN_KEYS = {
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "yarn_attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


@dataclass(frozen=True)
class Rope:
    """Base frequency `theta`, the scaling `kind` and its settings."""

    theta: float
    kind: str
    settings: Config

    def metadata(self, architecture: str) -> Metadata:
        """`{arch}.rope.*`: frequency base and, for linear and yarn, the scaling."""
        keys: Metadata = {"freq_base": f32(self.theta)}
        if self.kind in ("linear", "yarn"):
            keys["scaling.type"] = text(self.kind)
            keys["scaling.factor"] = f32(self.settings.number("factor"))
        if self.kind == "yarn":
            n_ctx = self.settings.integer("original_max_position_embeddings")
            keys["scaling.original_context_length"] = u32(n_ctx)
            for source, key in YARN_KEYS.items():
                if source in self.settings:
                    keys[f"scaling.{key}"] = f32(self.settings.number(source))
        return {f"{architecture}.rope.{key}": value for key, value in keys.items()}

    def factors(self, head_dim: int) -> Tensor | None:
        """Divisors of the frequencies, float32 [head_dim / 2], for the llama3 scaling; else None.

        Long wavelengths are divided by `factor`, short ones kept, those between
        interpolated (Llama 3.1; the formula of transformers' `_compute_llama3_parameters`).
        """
        if self.kind != "llama3":
            return None
        settings = self.settings
        factor = settings.number("factor", 8.0)
        low, high = (
            settings.number("low_freq_factor", 1.0),
            settings.number("high_freq_factor", 4.0),
        )
        if low >= high:
            raise ModelError(f"{settings.where}: low_freq_factor must be below high_freq_factor")
        n_ctx = settings.integer("original_max_position_embeddings", 8192)
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        wavelengths = 2 * math.pi * self.theta**exponents
        smooth = ((n_ctx / wavelengths - low) / (high - low)).clamp(0.0, 1.0)
        return 1.0 / ((1.0 - smooth) / factor + smooth)


def read_rope(config: Config) -> Rope:
    """The rotary settings of `config`; ModelError naming a scaling this converter does not know."""
    settings = config.part("rope_parameters" if "rope_parameters" in config else "rope_scaling")
    kind = settings.text("rope_type", settings.text("type", "default"))
    if kind not in SUPPORTED or "mrope_section" in settings:
        raise ModelError(
            f"{settings.where}: rope type {kind!r} is not supported",
            f"supported: {', '.join(SUPPORTED)}",
        )
    for where in (config, settings):
        if where.number("partial_rotary_factor", 1.0) != 1.0:
            raise ModelError(f"{where.where}: partial_rotary_factor other than 1 is not supported")
    theta = settings.number("rope_theta", config.number("rope_theta", DEFAULT_THETA))
    return Rope(theta, kind, settings)
