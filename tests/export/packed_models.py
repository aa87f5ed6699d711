"""Models whose layers' matrices are packed by a fixed pattern of tiers, without calibration."""

from pathlib import Path

import torch
from torch import nn

from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.linear import CSAQLinear
from csaq_export.hf.quantized_weight import QuantizedWeight, pack_rows
from csaq_export.hf.quantizer import mark_quantized
from csaq_export.quantize import encode
from csaq_export.quantize.packed import Packed
from csaq_runtime.formats import GGMLType
from tests.export.models import build_model, byte_level_tokenizer

TYPES = {16: GGMLType.F16, 8: GGMLType.Q8_0, 4: GGMLType.Q4_0}
WIDE = {16: GGMLType.BF16, 8: GGMLType.Q8_0, 4: GGMLType.Q4_K, 2: GGMLType.Q2_K}


def packed(weight, types, seed=0):
    """Every row at one of the widths, in a shuffled order."""
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    parts = order.tensor_split(len(types))
    return pack_rows(
        [
            (bits, Packed(kind, encode(weight[rows], kind)), rows)
            for (bits, kind), rows in zip(types.items(), parts, strict=True)
        ]
    )


def packed_model(kind="llama", seed=0, **changes) -> tuple[nn.Module, dict[str, QuantizedWeight]]:
    """The model and its packed matrices by module name."""
    model = build_model(kind, seed, **changes)
    found = {}
    for number, (name, module) in enumerate(list(model.named_modules())):
        if isinstance(module, nn.Linear) and name != "lm_head":
            found[name] = packed(module.weight.detach(), TYPES, number)
            model.set_submodule(name, CSAQLinear.from_weight(found[name], module.bias))
    mark_quantized(model, CSAQConfig(layers={name: w.tiers for name, w in found.items()}))
    return model, found


def save_packed(folder: Path, kind: str) -> nn.Module:
    """Save such a model with a tokenizer; returns it."""
    model, _ = packed_model(kind)
    model.save_pretrained(folder)
    pre = "qwen2" if kind.startswith("qwen") else "llama-bpe"
    byte_level_tokenizer(pre).save_pretrained(folder)
    return model
