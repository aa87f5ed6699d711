"""A model, a text and bits per weight → a rows file: the CSAQ method as a whole."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.metadata import Metadata, f32, text
from csaq_export.methods.csaq.cliques import find_labels, find_units, histogram
from csaq_export.methods.csaq.costs import row_costs
from csaq_export.methods.csaq.options import CsaqRequest
from csaq_export.methods.csaq.plan import RowsPlan, clique_arrays, index_type, plan_rows
from csaq_export.methods.session import Report, Session, open_session
from csaq_export.parallel import in_parallel
from csaq_export.pipeline import Conversion, packed_rows
from csaq_export.plan import Plan, TensorPlan
from csaq_export.quantize.guided import encode_guided
from csaq_export.write_gguf import front_matter, new_file, write_rows
from csaq_runtime.formats import GGMLType


def convert_csaq(conversion: Conversion, request: CsaqRequest, report: Report) -> Plan:
    """Write the file and return its plan; raises UsageError, ModelError or ResourceError."""
    with open_session(conversion, request.calibrating, request.work_dir, report) as session:
        labels = find_labels(session, request)
        units = find_units(session, labels)
        costs = row_costs(session, request)
        keys = _keys(session, request) | clique_arrays(labels)
        plan = plan_rows(session, request, units, costs, keys)
        _write(session, request, plan)
        sizes = ", ".join(f"{n} of {size}" for size, n in histogram(labels).items())
        return _told(session, plan, f"cliques at similarity {request.similarity:g}: {sizes}")


def _write(session: Session, request: CsaqRequest, plan: RowsPlan) -> None:
    conversion, tensors = session.conversion, iter(plan.tensors)
    names = list(plan.tiers)
    step = max(1, session.guidance.n_worker)
    with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
        file.write(front_matter(plan.metadata, plan.tensors))
        made: dict[str, list[NDArray[np.uint8]]] = {}
        for weight in session.model.weights:
            if weight.name not in plan.tiers:
                tensor = next(tensors)
                write_rows(file, packed_rows(tensor), tensor.n_bytes)
                continue
            if weight.name not in made:
                start = names.index(weight.name)
                made = _rounded(session, request, plan, names[start : start + step])
            for data in made[weight.name]:
                tensor = next(tensors)
                write_rows(file, [data], tensor.n_bytes)


def _rounded(
    session: Session, request: CsaqRequest, plan: RowsPlan, names: list[str]
) -> dict[str, list[NDArray[np.uint8]]]:
    """The bytes of some matrices' tensors, rounded side by side."""
    done = list(plan.tiers).index(names[0])

    def round_one(name: str) -> list[NDArray[np.uint8]]:
        return _packed(session, request, plan, name)

    session.report("rounding", done, len(plan.tiers))
    guidance = session.guidance
    return dict(
        zip(names, in_parallel(round_one, names, guidance.device, guidance.n_worker), strict=True)
    )


def _packed(
    session: Session, request: CsaqRequest, plan: RowsPlan, name: str
) -> list[NDArray[np.uint8]]:
    """Tiers, each rounded with the curvature of its rows, then the places."""
    guidance, tiers = session.guidance, plan.tiers[name]
    weight = guidance.model.read(name).to(guidance.device)
    sensitivity = guidance.sensitivities[name].to(guidance.device)
    found = []
    if len(tiers) == 1:
        return [encode_guided(weight, tiers[0].type, sensitivity, request.n_sweep).cpu().numpy()]
    for tier in tiers:
        rows = tier.rows.to(guidance.device)
        part = sensitivity.of_rows(rows)
        found.append(encode_guided(weight[rows], tier.type, part, request.n_sweep).cpu().numpy())
    return [*found, _places(torch.cat([tier.rows for tier in tiers]))]


def _places(rows: Tensor) -> NDArray[np.uint8]:
    kind = np.uint16 if index_type(len(rows)) is GGMLType.I16 else np.int32
    return rows.numpy().astype(kind).view(np.uint8)


def _told(session: Session, plan: RowsPlan, note: str) -> Plan:
    """What the command line says of the file: every matrix under its widest tier."""
    most = {
        name: max(tiers, key=lambda tier: len(tier.rows)).type for name, tiers in plan.tiers.items()
    }
    tensors = tuple(
        TensorPlan(w, kind, kind)
        for w in session.model.weights
        for kind in [most.get(w.name, GGMLType.F32)]
    )
    told = Plan("", plan.metadata, tensors, plan.n_bytes, (*session.model.notes, note))
    name = f"CSAQ_{told.bpw:.2f}BPW".replace(".", "_")
    return Plan(name, told.metadata, told.tensors, told.n_bytes, told.notes)


def _keys(session: Session, request: CsaqRequest) -> Metadata:
    return session.keys("csaq") | {
        "csaq.target_bpw": f32(request.bpw),
        "csaq.csaq.bits": text(",".join(map(str, request.bits))),
        "csaq.csaq.protection_floor": f32(request.protected),
        "csaq.csaq.clique_threshold": f32(request.similarity),
    }
