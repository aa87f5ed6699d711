"""A conversion that is asked for → its Job, from headers and the text alone, and its Estimate."""

from pathlib import Path

from csaq_export.calibrated import SWEEPS, TUNING_STEPS, Request, local_folder, uses_of
from csaq_export.calibration import read_calibration
from csaq_export.device import find_device
from csaq_export.estimate.calibrated import estimate_calibrated
from csaq_export.estimate.job import Job, Matrix
from csaq_export.estimate.search import Search, likely_search
from csaq_export.estimate.stage import Estimate
from csaq_export.guidance import PROBE_WINDOWS, Calibrating, n_held, open_within
from csaq_export.model import Model
from csaq_export.overrides import overridden
from csaq_export.pipeline import Conversion
from csaq_export.plan import Plan, plan_model
from csaq_export.room import check_room
from csaq_export.sensitivity import N_MIXTURE_GROUP
from csaq_export.source import open_model
from csaq_export.torch_model import load_tokenizer
from csaq_export.type_choice import Shape, is_quantizable


def estimate_conversion(conversion: Conversion, request: Request) -> Estimate:
    """What `convert_calibrated` would take on this machine, found in seconds.

    Raises ResourceError where a stage would not fit --max-memory.
    """
    folder, wanted = local_folder(conversion), request.calibrating
    device = find_device(wanted.device)
    with open_model(conversion.source, conversion.revision) as model:
        check_room(model, wanted, uses_of(request))
        layered, _, _ = open_within(folder, wanted, device)
        job = job_of(model, folder, conversion, request)
    return estimate_calibrated(folder, layered, job, device)


def job_of(model: Model, folder: Path, conversion: Conversion, request: Request) -> Job:
    """The Job; types that a calibration will choose are those of `likely_search`."""
    search = _search(model, conversion, request)
    plan, wanted = search.plans[0], request.calibrating
    matrices, candidates = matrices_of(plan), [matrices_of(each) for each in search.plans[1:]]
    n_window = _n_window(folder, wanted)
    held = n_held(n_window)
    return Job(
        n_window=n_window - held,
        seq_len=wanted.seq_len,
        batch_size=wanted.batch_size,
        n_held=held,
        n_probe=min(held, PROBE_WINDOWS),
        matrices=matrices,
        out_bytes=plan.n_bytes,
        sized=request.target is not None,
        n_sweep=SWEEPS[request.effort],
        n_step=TUNING_STEPS[request.effort],
        others=tuple(dict.fromkeys(m for each in candidates for m in each if m not in matrices)),
        n_other=len(candidates),
        search_seconds=search.seconds,
        own_text=wanted.source is None,
        max_memory=wanted.max_memory,
    )


def matrices_of(plan: Plan) -> tuple[Matrix, ...]:
    """Those of `plan` that are rounded."""
    names = {tensor.name for tensor in plan.tensors}
    groups = {} if "output.weight" in names else {"token_embd.weight": N_MIXTURE_GROUP}
    return tuple(
        Matrix(t.name, t.type, t.weight.n_row, t.weight.n_col, groups.get(t.name, 1))
        for t in plan.tensors
        if is_quantizable(Shape(t.name, t.weight.shape))
    )


def _search(model: Model, conversion: Conversion, request: Request) -> Search:
    """The preset asked for, or what is probably found for a size."""
    if request.target is not None:
        return likely_search(model, conversion, request)
    preset = plan_model(model, conversion.type, importance=True)
    return Search((overridden(model, preset, conversion.overrides),), 0.0)


def _n_window(folder: Path, wanted: Calibrating) -> int:
    """Windows that a file of text has; those of a dataset are taken to be enough."""
    if wanted.source is None or not Path(wanted.source).is_file():
        return wanted.n_sample
    shape = wanted.n_sample, wanted.seq_len, wanted.seed
    return len(read_calibration(wanted.source, load_tokenizer(folder), *shape).tokens)
