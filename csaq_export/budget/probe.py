"""The distance between a changed model and the original: KL divergence on kept-back text."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Probe:
    """`log_probs` are the original's, one float32 [n, seq_len, n_vocab] per batch of `tokens`."""

    model: PreTrainedModel
    tokens: tuple[Tensor, ...]
    log_probs: tuple[Tensor, ...]

    def divergence(self) -> float:
        """Mean KL divergence per token, in nats, of the model as it now is."""
        return mean_divergence(self.model, self.tokens, self.log_probs)


def make_probe(model: PreTrainedModel, tokens: Tensor, batch_size: int) -> Probe:
    """Remember what `model` predicts for `tokens` int64 [n, seq_len] before it is changed."""
    batches = torch.split(tokens, batch_size)
    return Probe(model, batches, tuple(_predictions(model, batches)))


@torch.no_grad()
def _predictions(model: PreTrainedModel, batches: tuple[Tensor, ...]) -> Iterator[Tensor]:
    for tokens in batches:
        yield model(tokens).logits.float().log_softmax(-1)


def mean_divergence(
    model: PreTrainedModel, tokens: tuple[Tensor, ...], log_probs: tuple[Tensor, ...]
) -> float:
    """Mean over all positions of Σ p·(log p − log q), p the original's prediction."""
    total, count = 0.0, 0
    for p, q in zip(log_probs, _predictions(model, tokens), strict=True):
        total += float((p.exp() * (p - q)).sum(dtype=torch.float64))
        count += p[..., 0].numel()
    return total / count
