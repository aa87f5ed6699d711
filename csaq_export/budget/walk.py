"""Changed models against the original: KL divergence on kept-back text, one layer at a time.

All copies walk up the layers together, so that a layer is placed once for many. A copy
sets out from the original's states below its first change, so that what two copies have
in common is computed once.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from csaq_export.layered_model import LayeredModel, swapped
from csaq_export.statistics.decoder import Decoder

# A changed copy: what gives the float32 weights, in GGUF order, of each tensor that differs.
Change = Mapping[str, Callable[[], Tensor]]
BATCH_SIZE = 2
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

States = list[Tensor]


@torch.no_grad()
def divergences(
    model: LayeredModel, tokens: Tensor, changes: Sequence[Change], device: torch.device
) -> list[float]:
    """Mean KL divergence per token, in nats, of each changed copy; `tokens` int64 [n, seq_len]."""
    decoder = model.decoder(tokens.shape[1], device)
    original, copies = _embedded(model, decoder, torch.split(tokens, BATCH_SIZE), changes, device)
    for index, layer in enumerate(decoder.layers):
        with decoder.placed(layer, device):
            for number, change in enumerate(changes):
                here = [name for name in change if name.startswith(f"blk.{index}.")]
                if here or number in copies:
                    states = copies.get(number, original)
                    with ExitStack() as stack:
                        for name in here:
                            stack.enter_context(model.changed(name, change[name](), device))
                        copies[number] = _above(decoder, index, states, device)
            original = _above(decoder, index, original, device)
    everyones = [copies.get(number, original) for number in range(len(changes))]
    return _compared(model, decoder, original, everyones, changes, device)


def _embedded(
    model: LayeredModel,
    decoder: Decoder,
    batches: Sequence[Tensor],
    changes: Sequence[Change],
    device: torch.device,
) -> tuple[States, dict[int, States]]:
    """Inputs of the first layer: the original's, and those of copies with another embedding."""
    copies = {}
    with decoder.placed(decoder.embedding, device):
        original = [decoder.embedding(tokens.to(device)).cpu() for tokens in batches]
        for number, change in enumerate(changes):
            if EMBEDDING in change:
                with model.changed(EMBEDDING, change[EMBEDDING](), device):
                    copies[number] = [decoder.embedding(t.to(device)).cpu() for t in batches]
    return original, copies


def _above(decoder: Decoder, index: int, states: States, device: torch.device) -> States:
    return [decoder.run_layer(index, each.to(device)).cpu() for each in states]


def _compared(
    model: LayeredModel,
    decoder: Decoder,
    original: States,
    copies: Sequence[States],
    changes: Sequence[Change],
    device: torch.device,
) -> list[float]:
    """Divergence of the predictions made from the last layer's outputs, window by window.

    The mean over all positions of Σ p·(log p − log q), added exactly.
    """
    output = EMBEDDING if model.tied else OUTPUT
    found: list[list[float]] = [[] for _ in changes]
    with decoder.placed(decoder.norm, device), decoder.placed(decoder.head, device):
        own = decoder.head.weight
        heads = [change[output]().to(own) if output in change else own for change in changes]
        windows = [_windows(each) for each in (original, *copies)]
        for p_states, *q_states in zip(*windows, strict=True):
            moved = [states.to(device) for states in q_states]
            here = divergence_of(decoder, p_states.to(device), moved, heads)
            for each, more in zip(found, here, strict=True):
                each += more
    return [math.fsum(each) / len(each) for each in found]


def divergence_of(
    decoder: Decoder, original: Tensor, copies: Sequence[Tensor], heads: Sequence[Tensor]
) -> list[list[float]]:
    """Divergence at every position of one window, by copy; `heads` are the copies' outputs."""
    p, found = _log_probs(decoder, original), []
    for states, head in zip(copies, heads, strict=True):
        with swapped(decoder.head, "weight", head):
            q = _log_probs(decoder, states)
        found.append((p.exp() * (p - q)).sum(-1).double().flatten().tolist())
    return found


def _windows(states: States) -> Iterator[Tensor]:
    return (window for batch in states for window in batch.split(1))  # type: ignore[no-untyped-call]


def _log_probs(decoder: Decoder, states: Tensor) -> Tensor:
    return decoder.logits(states).float().log_softmax(-1)
