"""Which tokens a head may propose: those that make up most of the text it is trained on."""

import torch
from torch import Tensor

COVERAGE = 0.975
"""Share of the text's tokens: without the others the output is several times smaller."""

_MULTIPLE = 16


def common_ids(tokens: Tensor, n_vocab: int) -> Tensor:
    """The fewest ids that cover `COVERAGE` of `tokens`, rounded up to 16: int64, ascending."""
    counts = torch.bincount(tokens.flatten(), minlength=n_vocab)
    order = counts.argsort(descending=True, stable=True)
    covered = counts[order].cumsum(0)
    n = int((covered < COVERAGE * covered[-1]).sum()) + 1
    n = min(n_vocab, -(-n // _MULTIPLE) * _MULTIPLE)
    return order[:n].sort().values
