"""Plan + guidance → the bytes of every matrix, each a stage of the work dir."""

import hashlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from csaq_export.device import tensor_float
from csaq_export.guidance import TOKENS_AT_ONCE, Guidance
from csaq_export.parallel import in_parallel
from csaq_export.plan import Plan, TensorPlan
from csaq_export.quantize.guided import encode_guided
from csaq_export.quantize.packed import Packed
from csaq_export.ranks import own_share, wait_for_ranks
from csaq_export.room import rounding_room
from csaq_export.torch_model import load_torch_model
from csaq_export.tuning import Schedule, tune
from csaq_export.workdir import WorkDir
from csaq_runtime.errors import ModelError

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rounded:
    """Where each tensor's bytes are: `places` maps its name to a stage and a key in it."""

    work: WorkDir
    fingerprint: Mapping[str, str]
    places: Mapping[str, tuple[str, str]]

    def bytes_of(self, name: str) -> Tensor | None:
        """uint8 [n_row, row_bytes] as they go into the file; None for tensors not rounded here."""
        if name not in self.places:
            return None
        stage, key = self.places[name]
        return self.work.load_one(stage, self.fingerprint, key)

    def packed(self, plan: Plan, device: torch.device) -> dict[str, Packed]:
        """All rounded matrices of `plan`, on `device`."""
        found = ((tensor, self.bytes_of(tensor.name)) for tensor in plan.tensors)
        return {t.name: Packed(t.type, data.to(device)) for t, data in found if data is not None}


def round_tensors(
    plan: Plan, guidance: Guidance, n_sweep: int, report: Report, told: str = "rounding"
) -> Rounded:
    """Round every matrix with a sensitivity; those the work dir has are not made again.

    `told`: what the stage is called to `report`.
    """
    stages = {
        tensor: f"rounded-{tensor.name}-{tensor.type.name}-{n_sweep}"
        for tensor in plan.tensors
        if tensor.name in guidance.sensitivities
    }
    wanted, done = _fair_share(list(stages)), itertools.count(1)
    report(told, 0, len(wanted))

    def round_one(tensor: TensorPlan) -> None:
        if not guidance.work.has(stages[tensor], guidance.fingerprint):
            packed = _round(tensor, guidance, n_sweep)
            guidance.work.save(stages[tensor], guidance.fingerprint, {"packed": packed})
        report(told, next(done), len(wanted))

    with tensor_float(False):
        in_parallel(round_one, wanted, guidance.device, rounding_room(guidance))
    wait_for_ranks()
    places = {tensor.name: (stage, "packed") for tensor, stage in stages.items()}
    return Rounded(guidance.work, guidance.fingerprint, places)


def _fair_share(tensors: list[TensorPlan]) -> list[TensorPlan]:
    """This rank's tensors: in turn from the most work to the least, in plan order."""
    by_size = sorted(tensors, key=lambda t: (-t.weight.n_row * t.weight.n_col, t.name))
    own = set(own_share([tensor.name for tensor in by_size]))
    return [tensor for tensor in tensors if tensor.name in own]


def _round(tensor: TensorPlan, guidance: Guidance, n_sweep: int) -> Tensor:
    weight = guidance.model.read(tensor.name).to(guidance.device)
    try:
        sensitivity = guidance.sensitivities[tensor.name].to(guidance.device)
        return encode_guided(weight, tensor.type, sensitivity, n_sweep).cpu()
    except ModelError as error:
        raise ModelError(f"{tensor.name}: {error}", error.hint) from error


def refine(
    plan: Plan, guidance: Guidance, rounded: Rounded, n_step: int, report: Report
) -> Rounded:
    """Scales and norms tuned for `n_step` steps; `rounded` itself for none."""
    if n_step == 0:
        return rounded
    types = "".join(f"{tensor.name}{tensor.type.name}" for tensor in plan.tensors)
    stage = f"tuned-{n_step}-{hashlib.sha256(types.encode()).hexdigest()[:16]}"
    tuned = guidance.work.load(stage, guidance.fingerprint)
    if tuned is None:
        tuned = _tuned(plan, guidance, rounded, n_step, report)
        guidance.work.save(stage, guidance.fingerprint, tuned)
    places = {name: (stage, name) for name in tuned}
    return Rounded(guidance.work, guidance.fingerprint, places)


def _tuned(
    plan: Plan, guidance: Guidance, rounded: Rounded, n_step: int, report: Report
) -> dict[str, Tensor]:
    batch_size = max(1, TOKENS_AT_ONCE // guidance.calibration.tokens.shape[1])
    schedule = Schedule(n_step, batch_size, guidance.device)
    packed = rounded.packed(plan, guidance.device)
    guidance.model.keeping(0)
    model = load_torch_model(guidance.folder)
    found = tune(model, packed, guidance.calibration, guidance.held, schedule, report)
    vectors = {name: v.cpu().view(torch.uint8)[None] for name, v in found.vectors.items()}
    return {name: part.data for name, part in found.packed.items()} | vectors
