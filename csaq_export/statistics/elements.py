"""Salience |g·W| of every element of one matrix, on demand: `collect` keeps its sums only."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_export.calibration import Calibration
from csaq_export.statistics.labels import sampled_labels


def element_salience(
    model: PreTrainedModel, parameter: nn.Parameter, calibration: Calibration, batch_size: int
) -> Tensor:
    """Mean over batches of |g·W|, float32 [n_row, n_col]; the draws are those of `collect`.

    `model` is frozen and on one device. The graph reaches from the matrix up, all at once.
    """
    total = torch.zeros_like(parameter, requires_grad=False)
    batches = torch.split(calibration.tokens, batch_size)
    parameter.requires_grad_(True)
    try:
        for number, tokens in enumerate(batches):
            logits = model(tokens.to(parameter.device)).logits.float()
            labels = sampled_labels(logits.detach(), calibration.seed, number)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, [parameter])
            total += (gradient * parameter.detach()).abs()
    finally:
        parameter.requires_grad_(False)
    return total.detach() / len(batches)
