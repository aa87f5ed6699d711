"""Kept-back windows through a calibrated model → rows that are large together, their cliques."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from gguf import GGUFValueType
from torch import Tensor, nn

from csaq_export.cliques import Cliques, cliques_by_count, find_cliques
from csaq_export.guidance import Guidance
from csaq_export.metadata import Metadata, array
from csaq_export.statistics.decoder import Decoder
from csaq_runtime.rows.names import CLIQUE

# csaq-quant's share of a token's outputs that counts as firing.
FIRING_SHARE = 0.1


def held_coactivation(guidance: Guidance) -> dict[str, Tensor]:
    """Coactivation counts float32 [n_row, n_row] of every layer's matrices on the held windows."""
    sources = {slot.source: name for name, slot in guidance.model.slots.items()}
    decoder = guidance.model.decoder(guidance.held.tokens.shape[1], guidance.device)
    found = layer_coactivation(decoder, guidance.held.tokens, guidance.device, FIRING_SHARE)
    return {
        sources[f"model.layers.{index}.{path}.weight"]: counts
        for index, layer in enumerate(found)
        for path, counts in layer.items()
    }


@torch.no_grad()
def layer_coactivation(
    decoder: Decoder, tokens: Tensor, device: torch.device, share: float
) -> Iterator[dict[str, Tensor]]:
    """Counts float32 [n_row, n_row] by linear module of one layer after the other.

    `tokens` int64 [n, seq_len]. A row fires where it is among the `share` largest outputs.
    """
    with decoder.placed(decoder.embedding, device):
        states = [decoder.embedding(window.to(device)) for window in tokens.split(1)]  # type: ignore[no-untyped-call]
    for index, layer in enumerate(decoder.layers):
        linears = {m: path for path, m in layer.named_modules() if isinstance(m, nn.Linear)}
        counts: dict[str, Tensor] = {}
        with decoder.placed(layer, device), _counting(linears, counts, share):
            states = [decoder.run_layer(index, state) for state in states]
        yield counts


@contextmanager
def _counting(
    names: Mapping[nn.Linear, str], counts: dict[str, Tensor], share: float
) -> Iterator[None]:
    """Inside the context every pass of the modules adds to the `counts` of their names."""

    def count(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Linear)
        fires = _fires(output.float().flatten(0, -2), share)
        counts[names[module]] = counts.get(names[module], 0) + (fires.T @ fires).cpu()

    hooks = [module.register_forward_hook(count) for module in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fires(outputs: Tensor, share: float) -> Tensor:
    n_top = min(outputs.shape[1], max(1, round(share * outputs.shape[1])))
    return torch.zeros_like(outputs).scatter_(1, outputs.abs().topk(n_top, 1).indices, 1.0)


def cliques_of(counts: Tensor, wanted: float) -> Cliques:
    """Cliques at similarity `wanted`, or from 1 on: at most so many groups."""
    return find_cliques(counts, wanted) if wanted < 1 else cliques_by_count(counts, round(wanted))


def clique_keys(guidance: Guidance, wanted: float) -> Metadata:
    """`csaq.clique.<tensor>`: each row's clique in the file's order, -1 for none."""
    keys = {}
    for name, counts in held_coactivation(guidance).items():
        labels = guidance.model.to_gguf(name, cliques_of(counts, wanted).labels)
        keys[f"{CLIQUE}{name}"] = array(labels.tolist(), GGUFValueType.INT32)
    return keys
