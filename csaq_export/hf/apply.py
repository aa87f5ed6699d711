"""A budget → packed layers in the model, in place of its linear ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from csaq_export.budget.cliques import PROTECTED_BITS
from csaq_export.hf.clique_budget import Budget, CliqueBits
from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.linear import CSAQLinear
from csaq_export.hf.profiler import CausalProfiler
from csaq_export.hf.quantized_weight import QuantizedWeight, pack_rows
from csaq_export.hf.quantizer import mark_quantized
from csaq_export.hf.tier import tier_type
from csaq_export.quantize import encode
from csaq_export.quantize.guided import encode_guided
from csaq_export.quantize.packed import Packed
from csaq_export.sensitivity import Sensitivity
from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType

# Sweeps of coordinate descent after error feedback, as `csaq convert` does by default.
N_SWEEP = 2


def apply_csaq(
    model: Any, budget: Budget, config: CSAQConfig, profiler: CausalProfiler | None = None
) -> dict[str, list[int]]:
    """Pack the layers of `budget` in `model`; returns the rows with 8 bits and more, by layer.

    With the `profiler` rounding is guided by the curvature it has observed; without it each weight
    counts alike. One layer is unpacked at a time. Raises ModelError for a layer that is not there
    or has weights that are not finite.
    """
    tiers = {}
    for name, cliques in budget.items():
        linear = model.get_submodule(name)
        if not isinstance(linear, nn.Linear):
            raise ModelError(f"{name}: no linear layer, or packed already")
        sensitivity = None if profiler is None else profiler.sensitivity(name)
        try:
            weight = pack_matrix(linear.weight.detach(), cliques, sensitivity)
        except ModelError as error:
            raise ModelError(f"{name}: {error}", error.hint) from error
        model.set_submodule(name, CSAQLinear.from_weight(weight, linear.bias))
        tiers[name] = weight.tiers
    mark_quantized(model, replace(config, layers=tiers))
    return {name: protected_rows(cliques) for name, cliques in budget.items()}


def protected_rows(cliques: Sequence[CliqueBits]) -> list[int]:
    """Rows with 8 bits and more, in order."""
    return sorted(row for clique in cliques if clique.bits >= PROTECTED_BITS for row in clique.rows)


def pack_matrix(
    weight: Tensor, cliques: Sequence[CliqueBits], sensitivity: Sensitivity | None
) -> QuantizedWeight:
    """`weight` [n_row, n_col] in tiers; rows of a clique lie side by side."""
    parts = []
    for bits in sorted({clique.bits for clique in cliques}):
        rows = torch.tensor([row for each in cliques if each.bits == bits for row in each.rows])
        rows = rows.to(weight.device)
        kind = _type(bits, weight)
        values = weight[rows].float()
        if sensitivity is None:
            data = encode(values, kind)
        else:
            guide = sensitivity.to(weight.device).of_rows(rows)
            data = encode_guided(values, kind, guide, N_SWEEP)
        parts.append((bits, Packed(kind, data), rows))
    return pack_rows(parts)


def _type(bits: int, weight: Tensor) -> GGMLType:
    """As the budget has it; 16-bit rows of a bfloat16 model stay what they are."""
    kind = tier_type(bits, weight.shape[1])
    keeps = kind == GGMLType.F16 and weight.dtype == torch.bfloat16
    return GGMLType.BF16 if keeps else kind
