"""The calibrated conversion: model + text + size → the closest GGUF of that size.

guide          calibrate: statistics → sensitivities
curves         what each type would cost each tensor
closest        types per tensor within the size, the best of a few plans that are measured
round_tensors  scale search, error feedback, descent → packed blocks in the work dir
closer         measured against the stock preset of the size, the closer one stays
refine         at the best effort: scales and norms tuned to the original's predictions
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_export.budget.allocate import target_bytes, types_text
from csaq_export.budget.curve import Curve, fixed_curve
from csaq_export.budget.swaps import Budget
from csaq_export.budget.target import Target
from csaq_export.coactivation import clique_keys
from csaq_export.costs import curves, has_curves
from csaq_export.guidance import (
    Calibrating,
    Guidance,
    guide,
)
from csaq_export.memory import check_calibrating
from csaq_export.metadata import Metadata, f32, text, u32
from csaq_export.model import Model
from csaq_export.overrides import fixed_types, overridden
from csaq_export.pipeline import Conversion, Progress, packed_rows
from csaq_export.plan import Plan, TensorPlan, plan_model
from csaq_export.ranks import is_first, ranks_folder
from csaq_export.rival import Candidate, closer, closest, rival_preset
from csaq_export.room import Uses, check_room
from csaq_export.rounded import Rounded, refine, round_tensors
from csaq_export.source import download, open_model
from csaq_export.type_choice import Shape, is_quantizable
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import check_place, front_matter, new_file, write_rows
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType

# Sweeps of coordinate descent after error feedback.
SWEEPS = {"fast": 0, "normal": 2, "best": 4}
# Bits per weight of the file below which closeness is worth the codebook types' slowness.
CODEBOOKS_BELOW = 4.0
# Other plans of the size that are rounded and measured.
SWAPS = {"fast": 0, "normal": 8, "best": 16}
# Steps of tuning scales and norms, which hold two copies of the model and its gradients.
TUNING_STEPS = {"fast": 0, "normal": 0, "best": 120}
# Of the whole model in float32 at once: tuning has a teacher, a student, its blocks and their
# gradients; else one layer is in memory at a time.
MODEL_COPIES = {"fast": 0, "normal": 0, "best": 6}
OWN_TEXT_NOTE = (
    "no --calib: calibrated on text that the model wrote; for a special use, give text like it"
)

Report = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Request:
    """What a calibrated conversion is asked for beside its Conversion.

    `target` None takes the preset `Conversion.type`; `floor` is the least type of any
    matrix; `work_dir` None uses a temporary one. `cliques` stores the clique of every row:
    found at that similarity if below 1, else at most so many groups per matrix.
    """

    calibrating: Calibrating
    target: Target | None
    effort: str = "normal"
    floor: GGMLType = GGMLType.IQ2_XXS
    work_dir: Path | None = None
    cliques: float = 0.0


def convert_calibrated(
    conversion: Conversion,
    request: Request,
    report: Report = silent,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> Plan:
    """Write the GGUF and return its plan; raises UsageError, ModelError or ResourceError."""
    with _guided(conversion, request, report) as (guidance, model):
        plan, rounded = _chosen(model, conversion, request, guidance, report)
        if not is_first():
            return plan
        final = refine(plan, guidance, rounded, TUNING_STEPS[request.effort], report)
        with new_file(conversion.out, plan.n_bytes, conversion.force) as file:
            file.write(front_matter(plan.metadata, plan.tensors))
            for tensor in plan.tensors:
                progress(Progress(tensor, file.tell(), plan.n_bytes))
                write_rows(file, _rows(tensor, final), tensor.n_bytes)
    return _told(plan, request)


def plan_calibrated(conversion: Conversion, request: Request) -> Plan | None:
    """What `convert_calibrated` would write; None where that takes a calibration to know.

    A work dir that has been through one for this text knows it, but for swaps of equal size.
    """
    if request.target is None:
        with open_model(conversion.source, conversion.revision) as model:
            preset = plan_model(model, conversion.type, importance=True)
            return overridden(model, preset, conversion.overrides)
    if request.work_dir is None or not has_curves(WorkDir(request.work_dir)):
        return None
    with _guided(conversion, request, silent) as (guidance, model):
        return _told(_budget(model, conversion, request, guidance, silent).plan(), request)


def _told(plan: Plan, request: Request) -> Plan:
    """`plan` with a note where no text was given."""
    if request.calibrating.source is not None:
        return plan
    return replace(plan, notes=(*plan.notes, OWN_TEXT_NOTE))


def uses_of(request: Request) -> Uses:
    """What the conversion does after the calibration."""
    return Uses(tunes=TUNING_STEPS[request.effort] > 0)


@contextmanager
def _guided(
    conversion: Conversion, request: Request, report: Report
) -> Iterator[tuple[Guidance, Model]]:
    """The calibrated model; weights can be read inside the context."""
    folder = local_folder(conversion)
    check_place(conversion.out, 0, conversion.force)
    with open_model(conversion.source, conversion.revision) as model, _work(request) as work:
        check_calibrating(model, MODEL_COPIES[request.effort])
        check_room(model, request.calibrating, uses_of(request))
        yield guide(folder, request.calibrating, work, report), model


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
    with ranks_folder(request.work_dir) as folder:
        yield WorkDir(folder)


def _chosen(
    model: Model, conversion: Conversion, request: Request, guidance: Guidance, report: Report
) -> Candidate:
    """The types of every tensor and the rounded matrices."""
    n_sweep, n_swap = SWEEPS[request.effort], SWAPS[request.effort]
    if request.target is None:
        plan = _preset(model, conversion, request, guidance)
        return plan, round_tensors(plan, guidance, n_sweep, report)
    budget = _budget(model, conversion, request, guidance, report)
    if n_swap == 0:
        plan = budget.plan()
        return plan, round_tensors(plan, guidance, n_sweep, report)
    ours = closest(guidance, budget, n_swap, n_sweep, report)
    rival = rival_preset(model, budget.limit, request.floor, conversion.overrides)
    return closer(guidance, ours, rival, n_sweep, report)


def _preset(model: Model, conversion: Conversion, request: Request, guidance: Guidance) -> Plan:
    preset = plan_model(model, conversion.type, importance=True)
    plan = overridden(model, preset, conversion.overrides)
    matrices = {t.name: t.type for t in plan.tensors if t.name in guidance.sensitivities}
    return plan.with_metadata(_metadata(request, guidance) | {"csaq.plan": types_text(matrices)})


def _budget(
    model: Model, conversion: Conversion, request: Request, guidance: Guidance, report: Report
) -> Budget:
    return budget_of(
        model, conversion, request, curves(guidance, report), _metadata(request, guidance)
    )


def budget_of(
    model: Model,
    conversion: Conversion,
    request: Request,
    found: Mapping[str, Curve],
    metadata: Metadata,
) -> Budget:
    """What is solved for `request.target`, from the Curve of every matrix."""
    assert request.target is not None
    fixed = fixed_types(plan_model(model, "F16").tensors, conversion.overrides)
    limit = target_bytes(model, request.target)
    small = 8 * limit < CODEBOOKS_BELOW * sum(w.n_row * w.n_col for w in model.weights)
    allowed = {
        weight.name: fixed_curve(weight, fixed[weight.name])
        if weight.name in fixed
        else _allowed(found[weight.name], request, small)
        for weight in model.weights
        if is_quantizable(Shape(weight.name, weight.shape))
    }
    return Budget(model, allowed, limit, metadata)


def _allowed(curve: Curve, request: Request, small: bool) -> Curve:
    """The choices that the request leaves; codebook types only where the file is `small`."""
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
    if request.cliques:
        keys |= clique_keys(guidance, request.cliques)
    if request.target is not None and request.target.bpw is not None:
        keys["csaq.target_bpw"] = f32(request.target.bpw)
    return keys


def _rows(tensor: TensorPlan, final: Rounded) -> Iterator[NDArray[np.uint8]]:
    data = final.bytes_of(tensor.name)
    if data is None:
        yield from packed_rows(tensor)
    else:
        yield data.cpu().numpy()
