"""A GGUF → transformers' model of its weights, whose inputs are rounded as the kernels round them.

Every matrix is the sum of parts that meet one kind of activations each: the tiers by their types,
single weights float32, factors theirs. Sums are float64, so that a pass over a part of a text
rounds as the pass over the whole does.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from csaq_export.torch_model import TorchModel, load_torch_model, row_order
from csaq_runtime.formats import GGMLType, dequantize
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.hparams import read_hparams
from csaq_runtime.kernels.activation import LAYOUTS, Activation
from csaq_runtime.kernels.dispatch import weight_format
from csaq_runtime.rows.weight import RowsWeight
from csaq_runtime.tensors import check_tensors
from tests.export.ties import SCALE, Rounding

Parts = dict[Activation, Tensor]


def rounded(x: Tensor, kind: Activation, used: Tensor, rounding: Rounding) -> Tensor:
    """float64 `x` [..., n_col] as a weight of this kind sees it; `used` are the columns it has."""
    if kind is Activation.FLOAT32:
        return x
    if kind is Activation.FLOAT16:
        return _half(x, kind.value, used, x, rounding)
    blocks = x.unflatten(-1, (-1, LAYOUTS[kind].block_size))
    peak = blocks.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    inverse = 127 / peak
    scale = 1 / inverse
    if kind is Activation.BLOCK_32:
        has_weights = used.unflatten(-1, (-1, blocks.shape[-1])).any(-1)
        scale = _half(peak[..., 0] / 127, SCALE, has_weights, x, rounding)[..., None]
    codes = rounding.codes((blocks * inverse).flatten(-2), kind.value, used, x)
    return (codes.view_as(blocks) * scale).flatten(-2)


def _half(exact: Tensor, kind: str, used: Tensor, source: Tensor, rounding: Rounding) -> Tensor:
    """float64 `exact` as float16."""
    step = torch.exp2(exact.abs().clamp(min=2.0**-14).log2().floor() - 10)
    return rounding.codes(exact / step, kind, used, source) * step


class RoundedLinear(nn.Module):
    """Σ parts · rounded x + bias."""

    def __init__(self, parts: Parts, bias: nn.Parameter | None, rounding: Rounding) -> None:
        super().__init__()
        self.parts = {kind: weight.double() for kind, weight in parts.items()}
        self.used = {kind: (weight != 0).any(0) for kind, weight in parts.items()}
        self.bias, self.rounding = bias, rounding

    def forward(self, x: Tensor) -> Tensor:
        """float64 [..., n_row] of [..., n_col]."""
        y = sum(
            rounded(x, kind, self.used[kind], self.rounding) @ weight.T
            for kind, weight in self.parts.items()
        )
        return y if self.bias is None else y + self.bias


def parts_of(file: GGUFFile, matrix: RowsWeight) -> Parts:
    """Dense parts, float32 [n_row, n_col], by what they are multiplied with."""
    parts: Parts = {}

    def part(kind: Activation) -> np.ndarray:
        return parts.setdefault(kind, torch.zeros(matrix.shape)).numpy()

    for info, rows in matrix.tiers.parts():
        part(activation(info.type))[rows] = dequantize(file.data(info.name), info.type)
    if matrix.outliers is not None:
        part(Activation.FLOAT32)[:] += matrix.outliers.dense(matrix.shape[1])
    if matrix.lowrank is not None:
        info = matrix.lowrank.tensor
        part(activation(info.type))[:, matrix.lowrank.columns] += file.float32(info.name)
    return parts


def activation(ggml_type: GGMLType) -> Activation:
    """What weights of a type are multiplied with."""
    return weight_format(ggml_type).activation


def load_reference(folder: Path, path: Path, rounding: Rounding | None = None) -> TorchModel:
    """The model of `folder` with the weights of a file; inputs are floats without a `rounding`."""
    model = load_torch_model(folder)
    with open_gguf(path) as file:
        matrices = check_tensors(file, read_hparams(file))
        for name in (n for n in model.slots if model.has(n)):
            base = name.removesuffix(".weight")
            if base not in matrices:
                if name in file.tensors:
                    model.write(name, torch.from_numpy(file.float32(name).copy()).reshape(-1))
            elif base == "token_embd" or rounding is None:
                model.write(name, torch.from_numpy(matrices[base].float32(file)))
        if rounding is not None:
            head = matrices.get("output", matrices["token_embd"])
            for base, matrix in {**matrices, "output": head}.items():
                if base != "token_embd":
                    _replace(model, f"{base}.weight", parts_of(file, matrix), rounding)
            model.model.double()
    return model


def _replace(model: TorchModel, name: str, parts: Parts, rounding: Rounding) -> None:
    path, order = "lm_head", None
    if name in model.slots:
        path, order = model.slots[name].source.removesuffix(".weight"), row_order(model.slots[name])
    if order is not None:
        parts = {kind: torch.empty_like(w).index_copy_(0, order, w) for kind, w in parts.items()}
    old = model.model.get_submodule(path)
    model.model.set_submodule(path, RoundedLinear(parts, old.bias, rounding))
