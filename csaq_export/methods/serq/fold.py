"""Flattening and ordering of inputs, moved into the weights around them where that is exact.

An input channel divided by its peak s is made by what produces it: the norm before q, k, v
and before gate and up, the rows of v before the attention's output, those of up before down.
Hidden units of the feed-forward part can stand in any order, channels of a value head in any
order within it; channels of the residual stream cannot, as all layers share them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Channels that calibration hardly reached are not scaled further apart than this.
_LEAST = 1e-3


@dataclass(frozen=True)
class Fold:
    """new = (row_scale · W · column_scale)[rows][:, columns]; None leaves things as they are."""

    row_scale: Tensor | None = None
    column_scale: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None

    def apply(self, weight: Tensor) -> Tensor:
        """A matrix [n_row, n_col], or a bias or norm as one of a single column."""
        if self.row_scale is not None:
            weight = weight * self.row_scale.to(weight)[:, None]
        if self.column_scale is not None:
            weight = weight * self.column_scale.to(weight)
        if self.rows is not None:
            weight = weight[self.rows]
        return weight if self.columns is None else weight[:, self.columns]

    def curvature(self, matrix: Tensor) -> Tensor:
        """Σ x·xᵀ of the inputs that the new weights see, [n_col, n_col]."""
        if self.column_scale is not None:
            scale = self.column_scale.to(matrix)
            matrix = matrix / (scale[:, None] * scale)
        return matrix if self.columns is None else matrix[self.columns][:, self.columns]


def folds(peaks: Mapping[str, Tensor], n_layer: int, n_kv: int, head_dim: int) -> dict[str, Fold]:
    """What happens to every tensor of the layers, by GGUF name; the model computes the same."""
    found: dict[str, Fold] = {}
    for index in range(n_layer):
        found |= _layer(f"blk.{index}", peaks, n_kv, head_dim)
    return found


def salience(peaks: Mapping[str, Tensor], folded: Mapping[str, Fold], name: str) -> Tensor:
    """Peaks of a matrix's inputs in their new order: what channels are ranked by."""
    peak, fold = peaks[name], folded[name]
    return peak if fold.columns is None else peak[fold.columns]


def _layer(layer: str, peaks: Mapping[str, Tensor], n_kv: int, head_dim: int) -> dict[str, Fold]:
    found: dict[str, Fold] = {}
    for norm, readers in (("attn_norm", ("attn_q", "attn_k", "attn_v")),
                          ("ffn_norm", ("ffn_gate", "ffn_up"))):  # fmt: skip
        scale = _even(peaks[f"{layer}.{readers[0]}.weight"])
        found[f"{layer}.{norm}.weight"] = Fold(row_scale=1 / scale)
        found |= {f"{layer}.{name}.weight": Fold(column_scale=scale) for name in readers}
    per_head = peaks[f"{layer}.attn_output.weight"].view(n_kv, -1, head_dim).amax(1)
    scale, order = _even(per_head.flatten()), per_head.argsort(dim=1, descending=True, stable=True)
    rows = (order + head_dim * torch.arange(n_kv)[:, None]).flatten()
    n_group = len(peaks[f"{layer}.attn_output.weight"]) // per_head.numel()
    columns = order[:, None] + head_dim * torch.arange(n_kv * n_group).view(n_kv, n_group, 1)
    wide = scale.view(n_kv, 1, head_dim).expand(n_kv, n_group, head_dim).flatten()
    value = found[f"{layer}.attn_v.weight"]
    found[f"{layer}.attn_v.weight"] = replace(value, row_scale=1 / scale, rows=rows)
    found[f"{layer}.attn_v.bias"] = Fold(row_scale=1 / scale, rows=rows)
    found[f"{layer}.attn_output.weight"] = Fold(column_scale=wide, columns=columns.flatten())
    return found | _hidden_units(layer, peaks, found)


def _hidden_units(
    layer: str, peaks: Mapping[str, Tensor], found: Mapping[str, Fold]
) -> dict[str, Fold]:
    peak = peaks[f"{layer}.ffn_down.weight"]
    scale, order = _even(peak), peak.argsort(descending=True, stable=True)
    gate, up = (found[f"{layer}.{name}.weight"] for name in ("ffn_gate", "ffn_up"))
    return {
        f"{layer}.ffn_gate.weight": replace(gate, rows=order),
        f"{layer}.ffn_gate.bias": Fold(rows=order),
        f"{layer}.ffn_up.weight": replace(up, row_scale=1 / scale, rows=order),
        f"{layer}.ffn_up.bias": Fold(row_scale=1 / scale, rows=order),
        f"{layer}.ffn_down.weight": Fold(column_scale=scale, columns=order),
    }


def _even(peak: Tensor) -> Tensor:
    """Peaks in units of their geometric mean, so that weights keep their size."""
    bounded = peak.clamp(min=max(float(peak.max()) * _LEAST, 1e-30))
    return bounded / bounded.log().mean().exp()
