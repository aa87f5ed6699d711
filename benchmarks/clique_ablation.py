"""Do groups of rows with a curvature of their own round better than one curvature per matrix?

    python -m benchmarks.clique_ablation demo/model --calib calib.txt --text valid.txt \
        --text wiki.test.raw --like Q3_K_S --groups 4 --work work

Groups: "one" (none), "coactivation" (rows that are large at the same tokens: the largest cliques
and the rest), "profile" (rows whose squared gradients have like token profiles, k-means on the
sketch). Same types, same calibration text, error feedback and descent; KL in torch, in nats.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from csaq_export.budget.probe import Probe, make_probe
from csaq_export.calibration import read_calibration
from csaq_export.cliques import find_cliques
from csaq_export.coactivation import held_coactivation
from csaq_export.guidance import Calibrating, Guidance, guide, model_digest
from csaq_export.plan import plan_model
from csaq_export.quantize import decode
from csaq_export.quantize.guided import encode_guided
from csaq_export.sensitivity import Sensitivity, Term, linear_statistics, shrunk
from csaq_export.source import open_model
from csaq_export.statistics import Collection, Statistics, collect
from csaq_export.torch_model import load_tokenizer
from csaq_export.workdir import WorkDir
from csaq_runtime.formats import GGMLType

N_SWEEP = 2
THRESHOLD = 0.3
KINDS = ("one", "coactivation", "profile")
# Labels int64 [n_row] in Hugging Face order, by GGUF name.
Groups = Mapping[str, Tensor]


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def collected(guidance: Guidance) -> Statistics:
    """The statistics that `guidance` was made from."""
    n_layer = int(guidance.model.model.config.num_hidden_layers)
    return Statistics(guidance.work, guidance.fingerprint, n_layer)


def clique_groups(coactivation: Tensor, n_group: int) -> Tensor:
    """The `n_group` - 1 largest cliques, and 0 for all other rows."""
    labels = find_cliques(coactivation, THRESHOLD).labels
    sizes = torch.bincount(labels[labels >= 0], minlength=1)
    largest = sizes.argsort(descending=True, stable=True)[: n_group - 1]
    found = torch.zeros_like(labels)
    for number, clique in enumerate(largest.tolist(), 1):
        found[labels == clique] = number
    return torch.unique(found, return_inverse=True)[1]


def profile_groups(profile: Tensor, n_group: int) -> Tensor:
    """k-means of the rows' directions; `profile` [n_sketch, n_row]."""
    rows = torch.nn.functional.normalize(profile.T, dim=1)
    centers = rows[torch.arange(n_group) * len(rows) // n_group]
    labels = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(20):
        labels = (rows @ centers.T).argmax(1)
        sums = torch.zeros_like(centers).index_add_(0, labels, rows)
        centers = torch.nn.functional.normalize(sums, dim=1)
    return torch.unique(labels, return_inverse=True)[1]


def find_groups(guidance: Guidance, kind: str, n_group: int) -> dict[str, Tensor]:
    """Labels of every layer's matrices."""
    if kind == "coactivation":
        counts = held_coactivation(guidance)
        return {name: clique_groups(each, n_group) for name, each in counts.items()}
    found = linear_statistics(guidance.model, collected(guidance))
    if kind == "profile":
        return {name: profile_groups(each.profile, n_group) for name, each in found.items()}
    return {name: torch.zeros(len(s.row_curvature), dtype=torch.long) for name, s in found.items()}


def regrouped(
    guidance: Guidance, folder: Path, model: Path, kind: str, groups: Groups
) -> Statistics:
    """Statistics with a curvature per group."""
    parts = {}
    for name, labels in groups.items():
        _, _, layer, *module, _ = guidance.model.slots[name].source.split(".")
        parts[f"layer-{layer}/{'.'.join(module)}"] = labels
    settings = Collection(8, torch.device("cpu"), 0.0, parts)
    identity = {"model": model_digest(model), "groups": f"{kind} {len(set(parts))}"}
    work = WorkDir(folder / f"groups-{kind}")
    return collect(guidance.model.model, guidance.calibration, work, identity, settings, silent)


def rounded(
    guidance: Guidance, name: str, kind: GGMLType, labels: Tensor, curvature: Tensor, n: float
) -> Tensor:
    """One matrix, each group of rows by its own curvature; GGUF order."""
    weight, order = guidance.model.read(name), guidance.model.to_gguf(name, labels)
    out = torch.empty_like(weight)
    for group in range(int(labels.max()) + 1):
        rows = order == group
        term = Term(shrunk(curvature[group], n) / n, torch.ones(int(rows.sum())))
        packed = encode_guided(weight[rows], kind, Sensitivity((term,)), N_SWEEP)
        out[rows] = decode(packed, kind)
    return out


def divergences(
    guidance: Guidance, types: Mapping[str, GGMLType], groups: Groups, found: Statistics,
    probes: list[Probe],
) -> list[float]:  # fmt: skip
    """KL per text with the layers' matrices rounded; embedding and output stay."""
    originals = {name: guidance.model.read(name) for name in groups}
    for name, linear in linear_statistics(guidance.model, found).items():
        n = float(linear.n_token)
        values = rounded(guidance, name, types[name], groups[name], linear.curvature, n)
        guidance.model.write(name, values)
    measured = [probe.divergence() for probe in probes]
    for name, values in originals.items():
        guidance.model.write(name, values)
    return measured


def main() -> None:
    """Print a line per kind of group."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--like", default="Q3_K_S")
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    calibrating = Calibrating(args.calib, args.nsamples, args.seqlen, 0, "cpu")
    guidance = guide(args.model, calibrating, WorkDir(args.work), silent)
    tokenizer = load_tokenizer(args.model)
    probes = []
    for text in args.text:
        windows = read_calibration(str(text), tokenizer, args.windows, args.seqlen, 1).tokens
        probes.append(make_probe(guidance.model.model, windows, 2))
    with open_model(str(args.model)) as model:
        plan = plan_model(model, args.like, importance=True)
    types = {tensor.name: tensor.type for tensor in plan.tensors}
    print(
        "| groups | "
        + " | ".join(text.name for text in args.text)
        + " |\n|---|"
        + "---|" * len(probes)
    )
    for kind in KINDS:
        groups = find_groups(guidance, kind, args.groups)
        statistics = regrouped(guidance, args.work, args.model, kind, groups)
        found = divergences(guidance, types, groups, statistics, probes)
        print(f"| {kind} | " + " | ".join(f"{value:.5f}" for value in found) + " |", flush=True)


if __name__ == "__main__":
    main()
