"""The SERQ conversion: rounding around salient columns, one factor per matrix, the files.

The main matrix is rounded with error feedback as if its r most salient columns were stored
exactly; the factor R then holds what these lack, and what of the other columns' errors they
can make up for: y = Q(W)·x + R·x[columns], R by least squares under the inputs' curvature.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.budget.allocate import planned
from csaq_export.guidance import Calibrating
from csaq_export.lora import Factors, of_columns, write_adapter
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.methods.mixed import csaq_architecture, round_kept
from csaq_export.methods.serq.fold import Fold, folds, salience
from csaq_export.methods.serq.peaks import input_peaks
from csaq_export.methods.session import Report, Session, open_session
from csaq_export.pipeline import Conversion, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_of
from csaq_export.quantize import decode
from csaq_export.quantize.exempt import Exempt
from csaq_export.quantize.guided import encode_guided, regular
from csaq_export.sensitivity import Sensitivity, Term
from csaq_export.weight import Weight
from csaq_export.write_gguf import check_place, front_matter, new_file, write_rows
from csaq_runtime.formats import GGMLType

BASE_TYPES = {4: GGMLType.Q4_K, 3: GGMLType.Q3_K, 2: GGMLType.Q2_K}
_DAMPING = 0.01


@dataclass(frozen=True)
class SerqRequest:
    """`rank` columns per matrix, or all if it has fewer.

    `lora` writes a stock file and an adapter beside it, else one file in the rows layout.
    """

    calibrating: Calibrating
    rank: int = 128
    w_bits: int = 4
    mxfp4: bool = False
    lora: bool = False
    work_dir: Path | None = None

    @property
    def base(self) -> GGMLType:
        """Type of the main matrices."""
        return GGMLType.MXFP4 if self.mxfp4 else BASE_TYPES[self.w_bits]


def adapter_path(out: Path) -> Path:
    """Where the adapter of the stock file `out` is."""
    return out.with_name(f"{out.stem}-lora.gguf")


@dataclass(frozen=True)
class Rounded:
    """One matrix: its bytes, and `factor` float32 [n_row, r] of its `columns` int64 [r]."""

    packed: Tensor
    factor: Tensor
    columns: Tensor


def convert_serq(conversion: Conversion, request: SerqRequest, report: Report) -> Plan:
    """Write the file (and adapter) and return its plan; raises what `convert_calibrated` does."""
    if request.lora:
        check_place(adapter_path(conversion.out), 0, conversion.force)
    with open_session(conversion, request.calibrating, request.work_dir, report) as session:
        peaks = input_peaks(
            session.guidance.model, session.guidance.calibration, session.guidance.device, report
        )
        folded = folds(peaks, *_sizes(session))
        plan, beside = _plan(session, request)
        factors: dict[str, Factors] = {}
        with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
            index = [part for base in plan.tensors for part in (base, *beside.get(base.name, ()))]
            file.write(front_matter(plan.metadata, index))
            for done, tensor in enumerate(plan.tensors):
                report("rounding", done, len(plan.tensors))
                if not tensor.name.startswith("blk.") or len(tensor.weight.shape) < 2:
                    rows = _other_rows(session, tensor, folded.get(tensor.name))
                    write_rows(file, rows, tensor.n_bytes)
                    continue
                ranks = salience(peaks, folded, tensor.name)
                made = _round(session, tensor, folded[tensor.name], ranks, request.rank)
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


def _sizes(session: Session) -> tuple[int, int, int]:
    """Layers, key/value heads and the size of a head."""
    model = session.model
    n_kv = model.number("attention.head_count_kv")
    shape = next(w.shape for w in model.weights if w.name == "blk.0.attn_v.weight")
    return model.number("block_count"), n_kv, shape[0] // n_kv


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


def _round(session: Session, tensor: TensorPlan, fold: Fold, ranks: Tensor, rank: int) -> Rounded:
    guidance = session.guidance
    weight = fold.apply(guidance.model.read(tensor.name).to(guidance.device))
    sensitivity = guidance.sensitivities[tensor.name].to(guidance.device)
    (_, seen), *_ = sensitivity.groups()
    curvature = regular(fold.curvature(seen))
    columns = ranks.topk(min(rank, weight.shape[1])).indices.sort().values
    return round_around_columns(weight, tensor.type, curvature, columns)


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


def _keys(session: Session, request: SerqRequest) -> Metadata:
    return session.keys("serq") | {
        "csaq.layout": text("stock" if request.lora else "rows"),
        "csaq.serq.rank": u32(request.rank),
    }
