"""The SERQ conversion: what is folded and rounded (see `rounding`) → the files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_export.budget.allocate import planned
from csaq_export.guidance import Calibrating
from csaq_export.lora import Factors, adapter_path, of_columns, write_adapter
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.methods.mixed import csaq_architecture
from csaq_export.methods.serq.fold import Fold
from csaq_export.methods.serq.rounding import Rounded, fold_model, round_matrix
from csaq_export.methods.session import Report, Session, open_session
from csaq_export.pipeline import Conversion, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.quantize.guided import encode_guided
from csaq_export.weight import Weight
from csaq_export.write_gguf import check_place, front_matter, new_file, write_rows
from csaq_runtime.formats import GGMLType

BASE_TYPES = {4: GGMLType.Q4_K, 3: GGMLType.Q3_K, 2: GGMLType.Q2_K}


@dataclass(frozen=True)
class SerqRequest:
    """`rank` columns per matrix, or all if it has fewer.

    `a_bits`: bits of activations that the file is meant for; it only names them (see
    `activations`). `lora` writes a stock file and an adapter beside it, else one file in the
    rows layout.
    """

    calibrating: Calibrating
    rank: int = 128
    w_bits: int = 4
    a_bits: int | None = None
    mxfp4: bool = False
    lora: bool = False
    work_dir: Path | None = None

    @property
    def base(self) -> GGMLType:
        """Type of the main matrices."""
        return GGMLType.MXFP4 if self.mxfp4 else BASE_TYPES[self.w_bits]


def convert_serq(conversion: Conversion, request: SerqRequest, report: Report) -> Plan:
    """Write the file (and adapter) and return its plan; raises what `convert_calibrated` does."""
    if request.lora:
        check_place(adapter_path(conversion.out), 0, conversion.force)
    with open_session(conversion, request.calibrating, request.work_dir, report) as session:
        folded = fold_model(session)
        plan, beside = _plan(session, request)
        factors: dict[str, Factors] = {}
        with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
            index = [part for base in plan.tensors for part in (base, *beside.get(base.name, ()))]
            file.write(front_matter(plan.metadata, index))
            for done, tensor in enumerate(plan.tensors):
                report("rounding", done, len(plan.tensors))
                if not tensor.name.startswith("blk.") or len(tensor.weight.shape) < 2:
                    rows = _other_rows(session, tensor, folded.folds.get(tensor.name))
                    write_rows(file, rows, tensor.n_bytes)
                    continue
                made = round_matrix(session, folded, tensor.name, tensor.type, request.rank)
                write_rows(file, [made.packed.numpy()], tensor.n_bytes)
                pairs = zip(beside.get(tensor.name, ()), _beside_data(made), strict=False)
                for part, data in pairs:
                    write_rows(file, [data], part.n_bytes)
                change = of_columns(made.factor, made.columns, tensor.weight.n_col)
                factors |= {tensor.name: change} if request.lora else {}
        if request.lora:
            architecture = session.model.architecture
            write_adapter(adapter_path(conversion.out), architecture, factors, conversion.force)
    return plan


def _plan(session: Session, request: SerqRequest) -> tuple[Plan, dict[str, tuple[TensorPlan, ...]]]:
    """The file's Plan and, in the rows layout, the tensors beside each matrix."""
    model, types = session.model, session.types(request.base)
    base = planned(model, types, _keys(session, request))
    if request.lora:
        return base, {}
    beside = {
        tensor.name: _factor_tensors(tensor.weight, request.rank)
        for tensor in base.tensors
        if tensor.name.startswith("blk.") and len(tensor.weight.shape) == 2
    }
    metadata = csaq_architecture(base.metadata, model.architecture)
    metadata["csaq.actual_bpw"] = f32(0.0)
    everything = tuple(p for t in base.tensors for p in (t, *beside.get(t.name, ())))
    n_bytes = plan_of("", metadata, everything, ()).n_bytes
    bpw = 8 * n_bytes / base.n_weight
    metadata["csaq.actual_bpw"] = f32(bpw)
    name = f"CSAQ_{bpw:.2f}BPW".replace(".", "_")
    return Plan(name, metadata, base.tensors, n_bytes, base.notes), beside


def _factor_tensors(weight: Weight, rank: int) -> tuple[TensorPlan, ...]:
    stem, r = weight.name.removesuffix(".weight"), min(rank, weight.n_col)
    shapes = {
        f"{stem}.lowrank": ((weight.n_row, r), GGMLType.F16),
        f"{stem}.lowrank_columns": ((r,), GGMLType.I32),
    }
    return tuple(
        TensorPlan(Weight(name, shape, kind, _unread), kind, kind)
        for name, (shape, kind) in shapes.items()
    )


def _unread(start: int, end: int) -> NDArray[np.uint8]:
    """The bytes come from the recipe."""
    return np.empty((0, 0), np.uint8)


def _beside_data(made: Rounded) -> tuple[NDArray[np.uint8], ...]:
    factor = made.factor.half().contiguous().numpy().view(np.uint8)
    return factor, made.columns.int().numpy().view(np.uint8)


def _other_rows(
    session: Session, tensor: TensorPlan, fold: Fold | None
) -> Iterator[NDArray[np.uint8]]:
    """Norms and biases as folding changes them, embedding and output as they are."""
    guidance = session.guidance
    if fold is not None:
        vector = guidance.model.read(tensor.name).reshape(-1, 1)
        yield fold.apply(vector).float().contiguous().numpy().view(np.uint8)
    elif tensor.name in guidance.sensitivities:
        weight = guidance.model.read(tensor.name).to(guidance.device)
        sensitivity = guidance.sensitivities[tensor.name].to(guidance.device)
        yield encode_guided(weight, tensor.type, sensitivity, n_sweep=0).cpu().numpy()
    else:
        yield from packed_rows(tensor)


def _keys(session: Session, request: SerqRequest) -> Metadata:
    meant = {} if request.a_bits is None else {"csaq.serq.a_bits": u32(request.a_bits)}
    return session.keys("serq") | {
        "csaq.layout": text("stock" if request.lora else "rows"),
        "csaq.serq.rank": u32(request.rank),
        **meant,
    }
