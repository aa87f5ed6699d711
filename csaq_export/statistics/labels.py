"""Logits → the tokens whose likelihood is differentiated: drawn from the model itself."""

import torch
from torch import Tensor


def sampled_labels(logits: Tensor, seed: int, number: int) -> Tensor:
    """One token per position from the model's own prediction, int64 [n · seq_len].

    Uniform numbers come from the CPU, keyed by the batch's number: the same whatever
    the device and the division among ranks.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    draw = torch.rand(logits[..., 0].numel(), 1, generator=generator, device="cpu")
    draw = draw.to(logits.device)
    cumulated = logits.flatten(0, 1).softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulated, draw * cumulated[:, -1:])[:, 0]
    return drawn.clamp_(max=logits.shape[-1] - 1)
