"""Kept-back windows through a calibrated model → rows that are large together, their cliques."""

from typing import Any

import torch
from gguf import GGUFValueType
from torch import Tensor, nn

from csaq_export.cliques import Cliques, cliques_by_count, find_cliques
from csaq_export.guidance import Guidance
from csaq_export.metadata import Metadata, array

# csaq-quant's share of a token's outputs that counts as firing.
FIRING_SHARE = 0.1


@torch.no_grad()
def held_coactivation(guidance: Guidance) -> dict[str, Tensor]:
    """Coactivation counts float32 [n_row, n_row] of every layer's matrices on the held windows."""
    model = guidance.model.model
    counts: dict[str, Tensor] = {}

    def follow(name: str) -> Any:
        def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            fires = _fires(output.flatten(0, -2))
            counts[name] = counts.get(name, 0) + fires.T @ fires

        return count

    sources = {slot.source: name for name, slot in guidance.model.slots.items()}
    hooks = [
        module.register_forward_hook(follow(sources[f"{path}.weight"]))
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and sources.get(f"{path}.weight", "").startswith("blk.")
    ]
    try:
        for window in guidance.held.tokens.split(1):  # type: ignore[no-untyped-call]
            model(window)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


def _fires(outputs: Tensor) -> Tensor:
    n_top = max(1, round(FIRING_SHARE * outputs.shape[1]))
    return torch.zeros_like(outputs).scatter_(1, outputs.abs().topk(n_top, 1).indices, 1.0)


def cliques_of(counts: Tensor, wanted: float) -> Cliques:
    """Cliques at similarity `wanted`, or from 1 on: at most so many groups."""
    return find_cliques(counts, wanted) if wanted < 1 else cliques_by_count(counts, round(wanted))


def clique_keys(guidance: Guidance, wanted: float) -> Metadata:
    """`csaq.clique.<tensor>`: each row's clique in the file's order, -1 for none."""
    keys = {}
    for name, counts in held_coactivation(guidance).items():
        labels = guidance.model.to_gguf(name, cliques_of(counts, wanted).labels)
        keys[f"csaq.clique.{name}"] = array(labels.tolist(), GGUFValueType.INT32)
    return keys
