"""The calibrated conversion: model + text + size → the closest GGUF of that size.

guide          calibrate: statistics → sensitivities
curves         what each type would cost each tensor
allocate       types per tensor within the size
round_tensors  scale search, error feedback, descent → packed blocks in the work dir
"""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.budget.allocate import allocate, target_bytes
from csaq_export.budget.curve import Curve
from csaq_export.budget.target import Target
from csaq_export.guidance import Calibrating, Guidance, curves, guide
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.model import Model
from csaq_export.parallel import in_parallel
from csaq_export.pipeline import Conversion, Progress, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.quantize.guided import encode_guided
from csaq_export.source import download, open_model
from csaq_export.type_choice import Shape, is_quantizable
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import check_place, front_matter, new_file, write_rows
from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.formats import GGMLType

# Sweeps of coordinate descent after error feedback.
SWEEPS = {"fast": 0, "normal": 2, "best": 4}


Report = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Request:
    """What a calibrated conversion is asked for beside its Conversion.

    `target` None takes the preset `Conversion.type`; `floor` is the least type of any
    matrix; `overrides` fix types by tensor name; `work_dir` None uses a temporary one.
    """

    calibrating: Calibrating
    target: Target | None
    effort: str = "normal"
    floor: GGMLType = GGMLType.Q2_K
    overrides: Mapping[str, GGMLType] = field(default_factory=dict)
    work_dir: Path | None = None


def convert_calibrated(
    conversion: Conversion,
    request: Request,
    report: Report = silent,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Plan:
    """Write the GGUF and return its plan; raises UsageError, ModelError or ResourceError."""
    with _guided(conversion, request, report) as (guidance, plan):
        stages = round_tensors(plan, guidance, SWEEPS[request.effort], report)
        with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
            file.write(front_matter(plan.metadata, plan.tensors))
            for tensor in plan.tensors:
                progress(Progress(tensor, file.tell(), plan.n_bytes))
                write_rows(file, _packed(tensor, guidance, stages), tensor.n_bytes)
    return plan


def plan_calibrated(conversion: Conversion, request: Request, report: Report = silent) -> Plan:
    """What `convert_calibrated` would write: calibrates, but rounds and writes nothing."""
    with _guided(conversion, request, report) as (_, plan):
        return plan


@contextmanager
def _guided(
    conversion: Conversion, request: Request, report: Report
) -> Iterator[tuple[Guidance, Plan]]:
    """The calibrated model and its plan; weights can be read inside the context."""
    folder = local_folder(conversion)
    check_place(conversion.out, 0, conversion.force)
    with open_model(conversion.source, conversion.revision) as model, _work(request) as work:
        guidance = guide(folder, request.calibrating, work, report)
        yield guidance, _plan(model, conversion, request, guidance, report)


def local_folder(conversion: Conversion) -> Path:
    """The folder of the source's files; UsageError for a GGUF, which torch cannot run."""
    path = Path(conversion.source)
    if path.is_file():
        raise UsageError(
            f"{path}: calibration runs the model in torch, which needs a Hugging Face folder",
            "leave --calib out, or convert the original model",
        )
    return path if path.is_dir() else download(conversion.source, conversion.revision)


@contextmanager
def _work(request: Request) -> Iterator[WorkDir]:
    if request.work_dir is not None:
        yield WorkDir(request.work_dir)
        return
    with tempfile.TemporaryDirectory(prefix="csaq-") as folder:
        yield WorkDir(Path(folder))


def _plan(
    model: Model,
    conversion: Conversion,
    request: Request,
    guidance: Guidance,
    report: Report,
) -> Plan:
    keys = _metadata(request, guidance)
    if request.target is None:
        preset = plan_model(model, conversion.type, importance=True)
        return preset.with_metadata(keys)
    found = curves(guidance, report)
    if unknown := sorted(set(request.overrides) - set(found)):
        raise UsageError(f"--tensor-type {unknown[0]}: the model has no such matrix")
    allowed = {
        name: _allowed(found[name], request)
        for weight in model.weights
        for name in [weight.name]
        if is_quantizable(Shape(name, weight.shape))
    }
    return allocate(model, allowed, target_bytes(model, request.target), keys)


def _allowed(curve: Curve, request: Request) -> Curve:
    fixed = request.overrides.get(curve.name)
    return curve.without(request.floor) if fixed is None else curve.only(fixed)


def _metadata(request: Request, guidance: Guidance) -> Metadata:
    calibration = guidance.calibration
    n_sample, seq_len = calibration.tokens.shape
    keys = {
        "csaq.version": u32(1),
        "csaq.layout": text("stock"),
        "csaq.method": text(f"guided-{request.effort}"),
        "csaq.seed": u32(calibration.seed),
        "csaq.calibration.dataset": text(calibration.dataset),
        "csaq.calibration.sha256": text(calibration.sha256),
        "csaq.calibration.n_sample": u32(n_sample),
        "csaq.calibration.seq_len": u32(seq_len),
    }
    if request.target is not None and request.target.bpw is not None:
        keys["csaq.target_bpw"] = f32(request.target.bpw)
    return keys


def round_tensors(
    plan: Plan,
    guidance: Guidance,
    n_sweep: int,
    report: Report,
) -> dict[str, str]:
    """Round every matrix with a sensitivity into a stage of the work dir; its name by tensor."""
    wanted = [tensor for tensor in plan.tensors if tensor.name in guidance.sensitivities]
    done = itertools.count(1)

    def round_one(tensor: TensorPlan) -> str:
        stage = f"rounded-{tensor.name}-{tensor.type.name}-{n_sweep}"
        if guidance.work.load(stage, guidance.fingerprint) is None:
            packed = _rounded(tensor, guidance, n_sweep)
            guidance.work.save(stage, guidance.fingerprint, {"packed": packed})
        report("rounding", next(done), len(wanted))
        return stage

    stages = in_parallel(round_one, wanted, guidance.device)
    return {tensor.name: stage for tensor, stage in zip(wanted, stages, strict=True)}


def _rounded(tensor: TensorPlan, guidance: Guidance, n_sweep: int) -> Tensor:
    weight = guidance.model.read(tensor.name).to(guidance.device)
    try:
        sensitivity = guidance.sensitivities[tensor.name]
        return encode_guided(weight, tensor.type, sensitivity, n_sweep)
    except ModelError as error:
        raise ModelError(f"{tensor.name}: {error}", error.hint) from error


def _packed(
    tensor: TensorPlan, guidance: Guidance, stages: Mapping[str, str]
) -> Iterator[NDArray[np.uint8]]:
    if tensor.name not in stages:
        yield from packed_rows(tensor)
        return
    stored = guidance.work.load(stages[tensor.name], guidance.fingerprint)
    assert stored is not None
    yield stored["packed"].numpy()
