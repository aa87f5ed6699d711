"""The calibrated conversion: model + text + size → the closest GGUF of that size.

guide          calibrate: statistics → sensitivities
curves         what each type would cost each tensor
allocate       types per tensor within the size
round_tensors  scale search, error feedback, descent → packed blocks in the work dir
refine         at the best effort: scales and norms tuned to the original's predictions
"""

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csaq_export.budget.allocate import allocate, target_bytes
from csaq_export.budget.curve import Curve
from csaq_export.budget.target import Target
from csaq_export.guidance import TOKENS_AT_ONCE, Calibrating, Guidance, curves, guide
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.model import Model
from csaq_export.parallel import in_parallel
from csaq_export.pipeline import Conversion, Progress, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.quantize.guided import encode_guided
from csaq_export.source import download, open_model
from csaq_export.tuning import Packed, Schedule, tune
from csaq_export.type_choice import Shape, is_quantizable
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import check_place, front_matter, new_file, write_rows
from csaq_runtime.errors import ModelError, UsageError
from csaq_runtime.formats import GGMLType

# Sweeps of coordinate descent after error feedback.
SWEEPS = {"fast": 0, "normal": 2, "best": 4}
# Bits per weight of the file below which closeness is worth the codebook types' slowness.
CODEBOOKS_BELOW = 4.0
# Steps of tuning scales and norms, which hold two copies of the model and its gradients.
TUNING_STEPS = {"fast": 0, "normal": 0, "best": 120}


Report = Callable[[str, int, int], None]
# The bytes of a tensor as they go into the file, uint8 [n, row_bytes], by name; None as usual.
Final = Callable[[str], Tensor | None]


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
    floor: GGMLType = GGMLType.IQ2_XXS
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
        final = refine(plan, guidance, stages, TUNING_STEPS[request.effort], report)
        with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
            file.write(front_matter(plan.metadata, plan.tensors))
            for tensor in plan.tensors:
                progress(Progress(tensor, file.tell(), plan.n_bytes))
                write_rows(file, _rows(tensor, final), tensor.n_bytes)
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
    limit = target_bytes(model, request.target)
    small = 8 * limit < CODEBOOKS_BELOW * sum(w.n_row * w.n_col for w in model.weights)
    allowed = {
        name: _allowed(found[name], request, small)
        for weight in model.weights
        for name in [weight.name]
        if is_quantizable(Shape(name, weight.shape))
    }
    return allocate(model, allowed, limit, keys)


def _allowed(curve: Curve, request: Request, small: bool) -> Curve:
    """The choices that the request leaves; codebook types only where the file is `small`."""
    fixed = request.overrides.get(curve.name)
    if fixed is not None:
        return curve.only(fixed)
    wanted = curve.at_least(request.floor)
    return wanted if small else wanted.without_codebooks()


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


def refine(
    plan: Plan, guidance: Guidance, stages: Mapping[str, str], n_step: int, report: Report
) -> Final:
    """Tune scales and norms for `n_step` steps; gives the bytes to write by tensor name."""

    def rounded(name: str) -> Tensor | None:
        stage = stages.get(name)
        stored = None if stage is None else guidance.work.load(stage, guidance.fingerprint)
        return None if stored is None else stored["packed"]

    if n_step == 0:
        return rounded
    types = "".join(f"{tensor.name}{tensor.type.name}" for tensor in plan.tensors)
    stage = f"tuned-{n_step}-{hashlib.sha256(types.encode()).hexdigest()[:16]}"
    tuned = guidance.work.load(stage, guidance.fingerprint)
    if tuned is None:
        tuned = _tuned(plan, guidance, rounded, n_step, report)
        guidance.work.save(stage, guidance.fingerprint, tuned)
    return tuned.get


def _tuned(
    plan: Plan,
    guidance: Guidance,
    rounded: Final,
    n_step: int,
    report: Report,
) -> dict[str, Tensor]:
    packed = {
        tensor.name: Packed(tensor.type, data)
        for tensor in plan.tensors
        for data in [rounded(tensor.name)]
        if data is not None
    }
    batch_size = max(1, TOKENS_AT_ONCE // guidance.calibration.tokens.shape[1])
    schedule = Schedule(n_step, batch_size, guidance.device)
    found = tune(guidance.model, packed, guidance.calibration, guidance.held, schedule, report)
    vectors = {name: v.cpu().view(torch.uint8)[None] for name, v in found.vectors.items()}
    return {name: part.data for name, part in found.packed.items()} | vectors


def _rows(tensor: TensorPlan, final: Final) -> Iterator[NDArray[np.uint8]]:
    data = final(tensor.name)
    if data is None:
        yield from packed_rows(tensor)
    else:
        yield data.cpu().numpy()
