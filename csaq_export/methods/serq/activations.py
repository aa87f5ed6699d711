"""SERQ in torch with activations of few bits, which no kernel here computes.

The inputs of every linear layer inside the decoder layers are rounded: to whole numbers with
one scale per token or per group of its columns, the largest magnitude at the last level; or to
MXFP4 as the OCP microscaling specification (v1.0, 6.3) says: per 32 columns a power of two, two
below the one that the largest magnitude has, and the nearest of E2M1's levels.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_export.methods.serq.rounding import Folded, round_matrix
from csaq_export.methods.session import Session
from csaq_export.quantize.mxfp4_layout import LEVELS
from csaq_export.torch_model import TorchModel
from csaq_runtime.formats import GGMLType

_MXFP4_COLUMNS, _LARGEST_EXPONENT = 32, 2


@dataclass(frozen=True)
class Activations:
    """`bits` per value and `group` columns to a scale, all of a token's for 0; or MXFP4."""

    bits: int
    group: int = 0
    mxfp4: bool = False

    def rounded(self, x: Tensor) -> Tensor:
        """float32 `x` [..., n_col] as it comes back from these bits."""
        if self.mxfp4:
            return _mxfp4(x.reshape(*x.shape[:-1], -1, _MXFP4_COLUMNS)).flatten(-2)
        groups = x.reshape(*x.shape[:-1], -1, self.group or x.shape[-1])
        largest = (1 << self.bits - 1) - 1
        scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / largest
        return ((groups / scale).round() * scale).flatten(-2)


def _mxfp4(groups: Tensor) -> Tensor:
    levels = torch.tensor(LEVELS).to(groups) / 2
    peak = groups.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    scale = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent - 1 - _LARGEST_EXPONENT)
    middles = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize((groups / scale).contiguous(), middles)] * scale


@contextmanager
def rounded_inputs(model: PreTrainedModel, activations: Activations | None) -> Iterator[None]:
    """Inside the context every linear layer of the decoder layers sees rounded inputs."""

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs if activations is None else (activations.rounded(inputs[0]),)

    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    linears = [m for m in decoder.layers.modules() if isinstance(m, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(before) for linear in linears]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def serq_tensors(
    session: Session, folded: Folded, ggml_type: GGMLType, rank: int
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the layers as SERQ stores it: float32 matrices and vectors, by GGUF name."""
    for name, fold in folded.folds.items():
        if name not in session.guidance.model.weights:
            continue
        values = session.guidance.model.read(name)
        if values.ndim == 2:
            yield name, round_matrix(session, folded, name, ggml_type, rank).dense(ggml_type)
        else:
            yield name, fold.apply(values[:, None])[:, 0]


@contextmanager
def replaced(model: TorchModel, tensors: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
    """Inside the context the model has other `tensors`, float32 in GGUF order, by GGUF name."""
    before = {}
    for name, values in tensors:
        before[name] = model.read(name)
        model.write(name, values)
    try:
        yield
    finally:
        for name, values in before.items():
            model.write(name, values)
