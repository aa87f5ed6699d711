"""Weights + curvature → expected divergence of every row at every width, kept in the work dir."""

import itertools

import torch
from torch import Tensor

from csaq_export.methods.csaq.options import CsaqRequest
from csaq_export.methods.session import Session
from csaq_export.parallel import in_parallel
from csaq_export.quantize import decode
from csaq_export.quantize.guided import encode_guided
from csaq_runtime.formats import GGMLType


def row_costs(session: Session, request: CsaqRequest) -> dict[str, dict[int, Tensor]]:
    """Matrix → bits → cost, float64 [n_row]: ½ Δ·H·Δᵀ after rounding with error feedback."""
    names, done = list(session.guidance.sensitivities), itertools.count(1)

    def measure(name: str) -> dict[int, Tensor]:
        found = _costs(session, request, name)
        session.report("measuring rows", next(done), len(names))
        return found

    guidance = session.guidance
    found = in_parallel(measure, names, guidance.device, guidance.n_worker)
    return dict(zip(names, found, strict=True))


def _costs(session: Session, request: CsaqRequest, name: str) -> dict[int, Tensor]:
    guidance = session.guidance
    n_col = guidance.model.weights[name].n_col
    wanted = request.types(n_col)
    costs: dict[int, Tensor] = {}
    for bits, kind in wanted.items():
        stage = f"row-costs-{name}-{kind.name}"
        kept = guidance.work.load(stage, guidance.fingerprint)
        if kept is None:
            kept = {"cost": _cost(session, name, kind)}
            guidance.work.save(stage, guidance.fingerprint, kept)
        costs[bits] = kept["cost"]
    return costs


def _cost(session: Session, name: str, kind: GGMLType) -> Tensor:
    guidance = session.guidance
    weight = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    packed = encode_guided(weight, kind, sensitivity, n_sweep=0)
    change = decode(packed, kind) - weight
    parts = [term.loss(change) for term in sensitivity.terms]
    return torch.stack(parts).sum(0).double().cpu()
