"""Kept-back windows through a calibrated model → rows that are large together, their cliques."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
    counts: dict[str, Tensor] = {}
    sources = {slot.source: name for name, slot in guidance.model.slots.items()}
    windows, device = guidance.held.tokens.split(1), guidance.device  # type: ignore[no-untyped-call]
    decoder = guidance.model.decoder(guidance.held.tokens.shape[1], device)
    with decoder.placed(decoder.embedding, device):
        states = [decoder.embedding(window.to(device)) for window in windows]
    for index, layer in enumerate(decoder.layers):
        names: dict[nn.Module, str] = {
            module: sources[f"model.layers.{index}.{path}.weight"]
            for path, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        }
        with decoder.placed(layer, device), _counting(names, counts):
            states = [decoder.run_layer(index, state) for state in states]
    return counts


@contextmanager
def _counting(names: Mapping[nn.Module, str], counts: dict[str, Tensor]) -> Iterator[None]:
    """Inside the context every pass of the modules adds to the `counts` of their names."""

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        fires = _fires(output.float().flatten(0, -2))
        counts[names[module]] = counts.get(names[module], 0) + (fires.T @ fires).cpu()

    hooks = [module.register_forward_hook(count) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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
