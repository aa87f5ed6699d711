"""Drafts by the model itself: the rows of `causal_map` at 4 bits, all else as it is.

The scheme of csaq-quant, made real: draft and model share their other rows and the KV cache, a
draft is drawn from what the cheaper rows predict, and the model checks it with its own. A draft
step reads nearly as many bytes as a step of the model, so this cannot make decoding faster (the
arithmetic is in docs/python-api.md); it shows how well the rows' protection is spent.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from csaq_export.hf.linear import CSAQLinear
from csaq_export.hf.quantized_weight import QuantizedWeight, pack_rows
from csaq_export.hf.speculative.context import Context
from csaq_export.quantize import encode
from csaq_export.quantize.packed import Packed
from csaq_export.type_choice import fitting
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.sample import Candidates, Sampler
from csaq_runtime.speculate.drafter import Draft

DRAFT_BITS, DRAFT_TYPE = 4, GGMLType.Q4_K


class RowsDrafter:
    """Runs `context`'s model with cheaper layers to guess what it will say."""

    name, wants_hidden = "rows", False

    def __init__(self, context: Context, cheaper: Mapping[str, CSAQLinear]) -> None:
        self._context, self._cheaper = context, cheaper
        self._sampler: Sampler | None = None

    def begin(self, sampler: Sampler) -> None:
        """A reply begins; drafts are drawn with `sampler`."""
        self._sampler = sampler

    def propose(self, context: Sequence[int], n: int, hidden: NDArray[np.float32] | None) -> Draft:
        """`n` tokens drawn from the cheaper layers' predictions."""
        assert self._sampler is not None
        ids: list[int] = []
        drawn_from: list[Candidates] = []
        n_past = self._context.n_past
        with replaced(self._context.model, self._cheaper):
            for _ in range(n):
                last = ids[-1] if ids else context[-1]
                logits = self._context.run([last], 1)[0]
                drawn_from.append(self._sampler.candidates(logits, [*context, *ids]))
                ids.append(self._sampler.draw(drawn_from[-1]))
        self._context.truncate(n_past)
        return Draft(ids, drawn_from)


def cheaper_layers(
    model: nn.Module, causal_map: Mapping[str, Sequence[int]]
) -> dict[str, CSAQLinear]:
    """The layers of `causal_map` with those rows at 4 bits; other rows share their memory.

    Raises UsageError where the model has no such packed layer.
    """
    found = {}
    for name, rows in causal_map.items():
        try:
            linear = model.get_submodule(name)
        except AttributeError:
            linear = None
        if not isinstance(linear, CSAQLinear):
            raise UsageError(f"{name}: no packed layer of this model", "quantize it first")
        if len(rows):
            weight = cheaper(linear.qweight, torch.tensor(rows, device=linear.rows.device))
            found[name] = CSAQLinear.from_weight(weight, linear.bias)
    if not found:
        raise UsageError("the causal map protects no rows", "use draft='ngram'")
    return found


def cheaper(weight: QuantizedWeight, rows: Tensor) -> QuantizedWeight:
    """`weight` with those of `rows` that have more than 4 bits at 4."""
    types = {tier.bits: tier.type for tier in weight.tiers}
    low = types.setdefault(DRAFT_BITS, fitting(DRAFT_TYPE, weight.shape[1]))
    parts: dict[int, list[tuple[Tensor, Tensor]]] = {bits: [] for bits in types}
    for tier, packed, places in weight.parts():
        moved = torch.isin(places, rows) & (tier.bits > DRAFT_BITS)
        parts[tier.bits].append((packed.data[~moved], places[~moved]))
        if bool(moved.any()):
            values = Packed(tier.type, packed.data[moved]).weight()
            parts[DRAFT_BITS].append((encode(values, low), places[moved]))
    return pack_rows(
        [
            (bits, Packed(types[bits], torch.cat([data for data, _ in part])),
             torch.cat([places for _, places in part]))
            for bits, part in parts.items()
            if part
        ]
    )  # fmt: skip


@contextmanager
def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside the context the model has other modules in some places."""
    before = {name: model.get_submodule(name) for name in layers}
    try:
        for name, module in layers.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in before.items():
            model.set_submodule(name, module)
