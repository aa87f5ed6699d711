"""Rows of a matrix in groups, each rounded by a curvature of its own: cliques in rounding.

Two ways to group: by cliques (rows that fire at the same tokens) and by the rows' squared
gradients over tokens, of which the statistics keep a sketch. The text is gone through once
more with the groups, so that every group has the curvature of exactly its rows.
"""

import torch
from torch import Tensor

from csaq_export.cliques import SINGLETON
from csaq_export.coactivation import cliques_of, held_coactivation
from csaq_export.guidance import Guidance, model_digest
from csaq_export.plan import TensorPlan
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term, linear_places, shrunk
from csaq_export.statistics import Collection, Statistics, collect
from csaq_export.workdir import WorkDir

N_GROUP = 4
N_ROUND = 20
Labels = dict[str, Tensor]


def by_cliques(guidance: Guidance) -> Labels:
    """At most N_GROUP cliques of every layer matrix; rows in Hugging Face order."""
    return {
        name: _numbered(cliques_of(counts, N_GROUP).labels)
        for name, counts in held_coactivation(guidance).items()
    }


def _numbered(labels: Tensor) -> Tensor:
    """A group of its own for every row that has none."""
    single = labels == SINGLETON
    own = labels.max() + torch.arange(1, 1 + int(single.sum()))
    return labels.masked_scatter(single, own)


def by_profiles(guidance: Guidance, statistics: Statistics) -> Labels:
    """N_GROUP clusters of the directions of the rows' sketched squared gradients."""
    places = linear_places(guidance.model, statistics)
    return {name: _clusters(statistics.of_one(*place).profile.T) for name, place in places.items()}


def _clusters(profiles: Tensor) -> Tensor:
    """Spherical k-means of rows; begins with evenly spaced rows by energy, so it is repeatable."""
    energy = profiles.norm(dim=1)
    rows = profiles / energy.clamp(min=1e-30)[:, None]
    starts = energy.argsort(stable=True)[torch.arange(N_GROUP) * (len(rows) - 1) // (N_GROUP - 1)]
    centers = rows[starts]
    labels = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(N_ROUND):
        labels = (rows @ centers.T).argmax(1)
        for group in range(N_GROUP):
            if bool((labels == group).any()):
                mean = rows[labels == group].mean(0)
                centers[group] = mean / mean.norm().clamp(min=1e-30)
    used = labels.bincount(minlength=N_GROUP) > 0
    return (used.cumsum(0) - 1)[labels]


def collect_groups(guidance: Guidance, kind: str, labels: Labels, base: Statistics) -> Statistics:
    """The statistics once more, with a curvature per group."""
    calibration = guidance.calibration
    places = linear_places(guidance.model, base)
    groups = {"/".join(places[name]): rows for name, rows in labels.items()}
    batch = int(guidance.fingerprint["batch"])
    settings = Collection(batch, guidance.device, 0.0, groups)
    decoder = guidance.model.decoder(calibration.tokens.shape[1], guidance.device)
    work = WorkDir(guidance.work.folder / f"groups-{kind}")
    identity = {"model": model_digest(guidance.folder), "groups": kind}
    return collect(decoder, calibration, work, identity, settings)


def encode_groups(
    guidance: Guidance, statistics: Statistics, labels: Labels, tensor: TensorPlan, n_sweep: int
) -> Tensor:
    """The bytes of one matrix, its rows rounded group by group; alike where it has no groups."""
    weight = guidance.model.read(tensor.name)
    if tensor.name not in labels:
        return encode_guided(weight, tensor.type, guidance.sensitivities[tensor.name], n_sweep)
    linear = statistics.of_one(*linear_places(guidance.model, statistics)[tensor.name])
    n_token = float(linear.n_token)
    group_of = guidance.model.to_gguf(tensor.name, labels[tensor.name])
    parts: dict[int, Tensor] = {}
    for group, curvature in enumerate(linear.curvature):
        rows = (group_of == group).nonzero()[:, 0]
        term = Term(shrunk(curvature, n_token) / n_token, torch.ones(len(rows)))
        parts[group] = encode_guided(weight[rows], tensor.type, Sensitivity((term,)), n_sweep)
    packed = torch.empty(len(weight), parts[0].shape[1], dtype=torch.uint8)
    for group, part in parts.items():
        packed[group_of == group] = part
    return packed
