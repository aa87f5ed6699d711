"""How transformers loads a CSAQ folder: packed layers in place of linear ones, then their bytes.

`AutoModelForCausalLM.from_pretrained` reads `quantization_config` of config.json, finds the two
classes by `quant_method`, as this module enters them in its tables, and lets the quantizer prepare
the modules before weights are read.
"""

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer

from csaq_export.hf.config import QUANT_METHOD, CSAQConfig
from csaq_export.hf.linear import CSAQLinear
from csaq_runtime.errors import ModelError, UsageError


class CSAQHfQuantizer(HfQuantizer):
    """Gives a model the layers that `CSAQConfig.layers` lists; calibration is not done here."""

    requires_calibration = True
    quantization_config: CSAQConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        config = self.quantization_config
        if not config.layers:
            raise UsageError("the CSAQ config lists no layers", "quantize(model, calib, config)")
        for name, tiers in config.layers.items():
            linear = _linear(model, name)
            with torch.device("meta"):
                packed = CSAQLinear(linear.in_features, linear.out_features, tiers)
            packed.bias = linear.bias
            model.set_submodule(name, packed)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        for name in self.quantization_config.layers:
            packed = model.get_submodule(name)
            assert isinstance(packed, CSAQLinear)
            # What no file had is memory as it was found, by chance even a valid index.
            for key, tensor in packed.named_buffers():
                if not getattr(tensor, "_is_hf_initialized", False):
                    raise ModelError(f"{name}.{key}: missing")
            packed.check(name)
        return model

    def _dequantize(self, model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
        """Ordinary linear layers with the weights that the packed ones stand for."""
        for name in self.quantization_config.layers:
            packed = model.get_submodule(name)
            assert isinstance(packed, CSAQLinear)
            model.set_submodule(name, plain_linear(packed, dtype))
        return model

    def is_serializable(self) -> bool:
        """`save_pretrained` writes packed layers as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Packed weights have no gradients."""
        return False


def plain_linear(packed: CSAQLinear, dtype: torch.dtype | None = None) -> nn.Linear:
    """The `nn.Linear` that computes what `packed` does."""
    weight = packed.qweight.dequantize().to(dtype or torch.float32)
    with torch.device("meta"):
        linear = nn.Linear(packed.in_features, packed.out_features, packed.bias is not None)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if packed.bias is not None:
        linear.bias = packed.bias
    return linear


def _linear(model: nn.Module, name: str) -> nn.Linear:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear):
        raise ModelError(f"quantization_config: layers: {name}: no linear layer of this model")
    return module


def mark_quantized(model: Any, config: CSAQConfig) -> None:
    """Let a model with packed layers be saved, shown and refused for casts as a loaded one is."""
    model.config.quantization_config = config
    model.hf_quantizer = CSAQHfQuantizer(config, pre_quantized=True)
    model.is_quantized = True
    model.quantization_method = QUANT_METHOD


AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = CSAQConfig
AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = CSAQHfQuantizer
