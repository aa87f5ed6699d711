"""One matrix of SERQ: rounding around its salient columns, and the factor of these.

The main matrix is rounded with error feedback as if its r most salient columns were stored
exactly; the factor R then holds what these lack, and what of the other columns' errors they
can make up for: y = Q(W)·x + R·x[columns], R by least squares under the inputs' curvature.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.methods.mixed import round_kept
from csaq_export.methods.serq.fold import Fold, folds, salience
from csaq_export.methods.serq.peaks import input_peaks
from csaq_export.methods.session import Session
from csaq_export.quantize import decode
from csaq_export.quantize.exempt import Exempt
from csaq_export.quantize.guided import regular
from csaq_export.sensitivity import Sensitivity, Term
from csaq_runtime.formats import GGMLType

_DAMPING = 0.01


@dataclass(frozen=True)
class Folded:
    """What happens to every tensor of the layers, and the `peaks` of matrices' old inputs."""

    peaks: Mapping[str, Tensor]
    folds: Mapping[str, Fold]

    def salient(self, name: str, rank: int) -> Tensor:
        """The `rank` most salient columns of a folded matrix (or all), int64, rising."""
        ranks = salience(self.peaks, self.folds, name)
        return ranks.topk(min(rank, len(ranks))).indices.sort().values


@dataclass(frozen=True)
class Rounded:
    """One matrix: its bytes, and `factor` float32 [n_row, r] of its `columns` int64 [r]."""

    packed: Tensor
    factor: Tensor
    columns: Tensor

    def dense(self, ggml_type: GGMLType) -> Tensor:
        """The matrix that both stand for, float32 [n_row, n_col]."""
        weight = decode(self.packed, ggml_type)
        weight[:, self.columns] += self.factor
        return weight


def fold_model(session: Session) -> Folded:
    """Measure the inputs of the session's model and fold them."""
    guidance = session.guidance
    peaks = input_peaks(guidance.model, guidance.calibration, guidance.device, session.report)
    return Folded(peaks, folds(peaks, *_sizes(session)))


def _sizes(session: Session) -> tuple[int, int, int]:
    """Layers, key/value heads and the size of a head."""
    model = session.model
    n_kv = model.number("attention.head_count_kv")
    shape = next(w.shape for w in model.weights if w.name == "blk.0.attn_v.weight")
    return model.number("block_count"), n_kv, shape[0] // n_kv


def round_matrix(
    session: Session, folded: Folded, name: str, ggml_type: GGMLType, rank: int
) -> Rounded:
    """A linear layer's matrix folded and rounded around its `rank` most salient columns."""
    guidance, fold = session.guidance, folded.folds[name]
    weight = fold.apply(guidance.model.read(name).to(guidance.device))
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    (_, seen), *_ = sensitivity.groups()
    curvature = regular(fold.curvature(seen))
    return round_around_columns(weight, ggml_type, curvature, folded.salient(name, rank))


def round_around_columns(
    weight: Tensor, ggml_type: GGMLType, curvature: Tensor, columns: Tensor
) -> Rounded:
    """Main matrix and factor of `weight` [n_row, n_col] under `curvature` [n_col, n_col]."""
    salient = torch.zeros_like(weight, dtype=torch.bool)
    salient[:, columns] = True
    exempt = Exempt(salient, torch.zeros_like(salient))
    sensitivity = Sensitivity((Term(curvature, torch.ones_like(weight[:, 0])),))
    packed, left = round_kept(weight, ggml_type, sensitivity, exempt)
    base = decode(packed, ggml_type)
    factor = (left - base)[:, columns]
    lacking = weight - base
    lacking[:, columns] -= factor
    square = curvature[columns][:, columns]
    square = square + _DAMPING * square.diagonal().mean() * torch.eye(len(columns)).to(square)
    factor = factor + torch.linalg.solve(square, (lacking @ curvature[:, columns]).T).T
    return Rounded(packed.cpu(), factor.cpu(), columns.cpu())
