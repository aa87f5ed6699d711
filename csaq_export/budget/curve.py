"""What each type would cost a tensor: its exact bytes and its expected KL divergence.

The divergence comes from actually rounding a sample of rows to every type and weighing
the error with the tensor's curvature.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.budget.solver import Option
from csaq_export.quantize import GRID_FORMATS, decode
from csaq_export.quantize.guided import encode_by, guides
from csaq_export.sensitivity import Sensitivity
from csaq_export.weight import Weight
from csaq_export.write_gguf import padded
from csaq_runtime.formats import LAYOUTS, GGMLType, row_bytes

T = GGMLType
# From small to large.
LADDER = (
    T.IQ2_XXS,
    T.IQ2_XS,
    T.IQ2_S,
    T.Q2_K,
    T.IQ3_XXS,
    T.Q3_K,
    T.IQ3_S,
    T.IQ4_XS,
    T.Q4_K,
    T.Q5_K,
    T.Q6_K,
    T.Q8_0,
)
# Closest for their size, but CPUs decode them at half the speed.
CODEBOOKS = frozenset(GRID_FORMATS)
# For rows that do not divide into super-blocks.
SMALL_BLOCK_LADDER = (T.IQ4_NL, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0)
MAX_SAMPLED_ROWS = 128


@dataclass(frozen=True)
class Curve:
    """One tensor's choices: `types[i]` has `options[i]`, ordered by size."""

    name: str
    types: tuple[GGMLType, ...]
    options: tuple[Option, ...]

    def scaled(self, factor: float) -> "Curve":
        """The same with all costs multiplied."""
        options = tuple(Option(option.n_bytes, option.cost * factor) for option in self.options)
        return Curve(self.name, self.types, options)

    def cost(self, chosen: GGMLType) -> float | None:
        """What the type costs; None where it is not among the choices."""
        return self.options[self.types.index(chosen)].cost if chosen in self.types else None

    def bent(self, low: GGMLType, high: GGMLType, factor: float) -> "Curve":
        """The same with costs times `factor` at `high` and beyond, 1 at `low`, powers between.

        Unchanged where the cost does not fall from `low` to `high`.
        """
        first, last = self.cost(low), self.cost(high)
        if first is None or last is None or not 0 < last < first or factor <= 0:
            return self
        span = math.log(first / last)

        def bend(option: Option) -> Option:
            way = 1.0 if option.cost <= last else max(0.0, math.log(first / option.cost) / span)
            return Option(option.n_bytes, option.cost * factor**way)

        return Curve(self.name, self.types, tuple(map(bend, self.options)))

    def without_codebooks(self) -> "Curve":
        """The same without the codebook types, if others remain."""
        kept = [i for i, t in enumerate(self.types) if t not in CODEBOOKS]
        return self._kept(kept) if kept else self

    def at_least(self, floor: GGMLType) -> "Curve":
        """The same without types of fewer bits than `floor`; the largest always stays."""
        least = min(LAYOUTS[floor].bpw, LAYOUTS[self.types[-1]].bpw)
        return self._kept([i for i, t in enumerate(self.types) if LAYOUTS[t].bpw >= least])

    def _kept(self, indices: Sequence[int]) -> "Curve":
        types = tuple(self.types[i] for i in indices)
        return Curve(self.name, types, tuple(self.options[i] for i in indices))


def fixed_curve(weight: Weight, chosen: GGMLType) -> Curve:
    """The Curve of a tensor that has one choice, whatever it costs."""
    n_bytes = padded(weight.n_row * row_bytes(chosen, weight.n_col))
    return Curve(weight.name, (chosen,), (Option(n_bytes, 0.0),))


def ladder(n_col: int) -> tuple[GGMLType, ...]:
    """Candidate types for rows of `n_col` weights; F16 alone where no block fits."""
    for candidates in (LADDER, SMALL_BLOCK_LADDER):
        if all(n_col % LAYOUTS[t].block_size == 0 for t in candidates):
            return candidates
    return (T.F16,)


def measure_curve(
    name: str, weight: Tensor, sensitivity: Sensitivity, types: Sequence[GGMLType]
) -> Curve:
    """The Curve of float32 `weight` [n_row, n_col]."""
    n_row = weight.shape[0]
    rows = sampled_rows(n_row).to(weight.device)
    sample, sampled = weight[rows], sensitivity.of_rows(rows)
    options = tuple(_options(sample, sampled, types, n_row, n_row / len(rows)))
    return Curve(name, tuple(types), options)


def sampled_rows(n_row: int) -> Tensor:
    """Evenly spaced row indices, at most MAX_SAMPLED_ROWS."""
    n = min(n_row, MAX_SAMPLED_ROWS)
    return torch.arange(n, device="cpu") * n_row // n


def _options(
    sample: Tensor,
    sensitivity: Sensitivity,
    types: Sequence[GGMLType],
    n_row: int,
    share: float,
) -> Iterator[Option]:
    guided = tuple(guides(sensitivity, sample.device))
    for ggml_type in types:
        packed = encode_by(sample, ggml_type, guided, n_sweep=0)
        change = decode(packed, ggml_type) - sample
        n_bytes = padded(n_row * row_bytes(ggml_type, sample.shape[1]))
        yield Option(n_bytes, share * sensitivity.loss(change))
