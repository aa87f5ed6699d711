"""What is summed over calibration tokens for one linear layer.

Inputs x [n, n_in], outputs z [n, n_out] and loss gradients δ = ∂ℓ/∂z go in; sums come
out. All fields add, over batches as over ranks, so that a sum of parts is the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Rows of the sketch that keeps the scalar products of rows' token profiles (Johnson-Lindenstrauss).
N_SKETCH = 64
# Columns that share one salience sum: ggml's super-block.
BLOCK = 256
# Weights whose gradient exists at a time: 64 MiB of float32.
GRADIENT_WEIGHTS = 1 << 24


@dataclass(frozen=True)
class LinearStatistics:
    """Sums over tokens t and batches b; float32 unless said.

    `n_token`, `n_batch`: float64 scalars. `input_sum`, `input_square` [n_in]: Σx, Σx².
    `curvature` [n_group, n_in, n_in]: Σ s̄·x·xᵀ, s̄ the group's mean δ² at the token
    (GuidedQuant, arXiv 2505.07004); `row_curvature` [n_out]: Σδ².
    `salience_rows` [n_out], `salience_columns` [n_in], `salience_blocks` [n_out, n_block]:
    Σ_b |g·W| (g the batch's weight gradient) summed over the others. `profile`
    [N_SKETCH, n_out]: random projections of the rows' δ² over tokens.
    `coactivation` [n_out, n_out]: tokens at which both outputs are among the largest
    (empty unless asked for).
    """

    n_token: Tensor
    n_batch: Tensor
    input_sum: Tensor
    input_square: Tensor
    curvature: Tensor
    row_curvature: Tensor
    salience_rows: Tensor
    salience_columns: Tensor
    salience_blocks: Tensor
    profile: Tensor
    coactivation: Tensor

    def __add__(self, other: "LinearStatistics") -> "LinearStatistics":
        mine, theirs = self.tensors(), other.tensors()
        return LinearStatistics(**{name: mine[name] + theirs[name] for name in mine})

    def add_(self, other: "LinearStatistics") -> "LinearStatistics":
        """`self`, with `other` added in place."""
        mine, theirs = self.tensors(), other.tensors()
        for name, tensor in mine.items():
            tensor.add_(theirs[name])
        return self

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def from_tensors(tensors: Mapping[str, Tensor]) -> LinearStatistics:
    """Rebuild from `tensors()`."""
    return LinearStatistics(
        **{field.name: tensors[field.name] for field in fields(LinearStatistics)}
    )


def observe(
    x: Tensor, z: Tensor, delta: Tensor, weight: Tensor, groups: Tensor, seed: int, share: float
) -> LinearStatistics:
    """Statistics of one batch, summed in float32 whatever the model runs in.

    `groups` int64 [n_out] assigns rows to Hessians; `seed` fixes the sketch of this
    batch; `share` > 0 counts coactivation among that share of outputs per token.
    """
    x, delta = x.float(), delta.float()
    square = delta.square()
    rows, columns, blocks = _salience(x, delta, weight)
    return LinearStatistics(
        n_token=_count(len(x)),
        n_batch=_count(1),
        input_sum=x.sum(0),
        input_square=x.square().sum(0),
        curvature=_curvature(x, square, groups),
        row_curvature=square.sum(0),
        salience_rows=rows,
        salience_columns=columns,
        salience_blocks=blocks,
        profile=_signs(len(x), seed).to(x) @ square,
        coactivation=_coactivation(z.float(), share),
    )


def _salience(x: Tensor, delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|g·W| by row, column and block; the gradient g exists for a few rows at a time."""
    step = max(1, GRADIENT_WEIGHTS // weight.shape[1])
    columns = x.new_zeros(weight.shape[1])
    rows, blocks = [], []
    for start in range(0, len(weight), step):
        here = slice(start, start + step)
        salience = (delta[:, here].T @ x).mul_(weight[here]).abs_()
        rows.append(salience.sum(1))
        columns += salience.sum(0)
        blocks.append(_block_sums(salience))
    return torch.cat(rows), columns, torch.cat(blocks)


def _curvature(x: Tensor, square: Tensor, groups: Tensor) -> Tensor:
    n_group = int(groups.max()) + 1
    if n_group == 1:
        return _weighted(x, square)[None]
    members = (groups.to(x.device) == group for group in range(n_group))
    return torch.stack([_weighted(x, square[:, rows]) for rows in members])


def _weighted(x: Tensor, square: Tensor) -> Tensor:
    """Σ s̄·x·xᵀ, s̄ the mean of a token's `square`."""
    return (x * square.mean(1, keepdim=True)).T @ x


def _block_sums(salience: Tensor) -> Tensor:
    n_row, n_col = salience.shape
    padded = torch.nn.functional.pad(salience, (0, -n_col % BLOCK))
    return padded.view(n_row, -1, BLOCK).sum(-1)


def _count(n: int) -> Tensor:
    return torch.tensor(float(n), dtype=torch.float64, device="cpu")


def _signs(n_token: int, seed: int) -> Tensor:
    """±1, float32 [N_SKETCH, n_token]; drawn on the CPU so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    shape = (N_SKETCH, n_token)
    return torch.randint(0, 2, shape, generator=generator, device="cpu").float() * 2 - 1


def _coactivation(z: Tensor, share: float) -> Tensor:
    """How often pairs of outputs are both among the `share` largest of a token by magnitude."""
    if share <= 0:
        return z.new_zeros(0, 0)
    n_top = max(1, round(share * z.shape[1]))
    fires = torch.zeros_like(z).scatter_(1, z.abs().topk(n_top, 1).indices, 1.0)
    return fires.T @ fires


def lookup_statistics(ids: Tensor, gradient: Tensor, n_vocab: int) -> LinearStatistics:
    """As `observe`, for the matrix product that a lookup is (inputs one-hot, so no input sums).

    `ids` int64 [n_token] are on the CPU, where rows that are met again add up in one order.
    """
    n_embd, squares = gradient.shape[1], gradient.square().sum(1).cpu()
    energy = torch.zeros(n_vocab, device="cpu").index_add_(0, ids, squares).to(gradient)
    curvature = gradient.T @ gradient / n_vocab
    empty = gradient.new_zeros(0)
    return LinearStatistics(
        n_token=_count(len(ids)),
        n_batch=_count(1),
        input_sum=gradient.new_zeros(n_embd),
        input_square=torch.diagonal(curvature).clone(),
        curvature=curvature[None],
        row_curvature=energy / n_embd,
        salience_rows=empty,
        salience_columns=empty,
        salience_blocks=empty,
        profile=empty,
        coactivation=empty,
    )
