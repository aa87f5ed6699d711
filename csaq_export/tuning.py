"""Rounded tensors + calibration text → their scales and the model's norms, tuned to the original.

The stock format stores norms as F32 and a half-precision factor per block: both are free
to move once the codes are fixed. A few steps of Adam on the KL divergence from the
original's predictions take off what rounding layer by layer could not see. Codes stay;
the result is kept only if text it was not tuned on agrees.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_export.budget.probe import make_probe
from csaq_export.calibration import Calibration
from csaq_export.quantize import CODE_FORMATS, GRID_FORMATS
from csaq_export.quantize.packed import Packed
from csaq_export.torch_model import TorchModel
from csaq_runtime.formats import LAYOUTS, GGMLType

Report = Callable[[str, int, int], None]
# Relative change per step at the start; it falls linearly to nothing.
RATE = 1e-3
BETAS = (0.9, 0.95)
WARMUP_STEPS = 5
PROBE_WINDOWS = 4


@dataclass(frozen=True)
class Tuned:
    """The matrices with new scales, the norms as float32, and held-out KL before and after."""

    packed: dict[str, Packed]
    vectors: dict[str, Tensor]
    before: float
    after: float


@dataclass(frozen=True)
class Schedule:
    """`n_step` steps of `batch_size` windows on `device`."""

    n_step: int
    batch_size: int
    device: torch.device


def tune(
    model: TorchModel,
    packed: Mapping[str, Packed],
    calibration: Calibration,
    held: Calibration,
    schedule: Schedule,
    report: Report = lambda stage, done, total: None,
) -> Tuned:
    """Tune on `calibration`, decide on `held`; `model` must hold the original and does so after."""
    student = model.model
    nn.Module.to(student, schedule.device)
    teacher = copy.deepcopy(student)
    probe = make_probe(student, held.tokens.to(schedule.device), PROBE_WINDOWS)
    originals = {name: model.read(name) for name in model.slots if model.has(name)}
    knobs = [_Knob(model, name, part) for name, part in packed.items() if is_tunable(part.type)]
    for name, part in packed.items():
        model.write(name, part.weight())
    before = probe.divergence()
    vectors = [name for name in originals if name.endswith("_norm.weight")]
    with _gradients(model, knobs, vectors):
        _descend(teacher, student, knobs, [model.parameter(n) for n in vectors],
                 calibration, schedule, report)  # fmt: skip
    moved = {knob.name: knob.packed() for knob in knobs}
    for name, part in moved.items():
        model.write(name, part.weight())
    after = probe.divergence()
    found = {name: model.read(name) for name in vectors}
    for name, values in originals.items():
        model.write(name, values)
    if after >= before:
        return Tuned(dict(packed), {}, before, before)
    return Tuned({**packed, **moved}, found, before, after)


def is_tunable(ggml_type: GGMLType) -> bool:
    """Whether blocks of the type have a factor of their own that can change a little."""
    if ggml_type in CODE_FORMATS:
        return not CODE_FORMATS[ggml_type].power_of_two
    return ggml_type in GRID_FORMATS


class _Knob:
    """A relative factor per block of one matrix, float32 [n_row, n_block], and its gradient."""

    def __init__(self, model: TorchModel, name: str, part: Packed) -> None:
        self.model, self.name, self.part = model, name, part
        n_row, size = part.data.shape[0], LAYOUTS[part.type].block_size
        self.blocks = part.weight().reshape(n_row, -1, size)
        self.factor = torch.ones(self.blocks.shape[:2], device=self.blocks.device)

    def take_gradient(self, parameter: nn.Parameter) -> None:
        """Reduce the weights' gradient to the factors', and drop it."""
        assert parameter.grad is not None
        gradient = self.model.to_gguf(self.name, parameter.grad).reshape(self.blocks.shape)
        self.factor.grad = (gradient * self.blocks.to(gradient)).sum(-1).to(self.factor)
        parameter.grad = None

    def apply(self) -> None:
        """Put the scaled weights into the model."""
        scaled = self.blocks * self.factor[:, :, None]
        self.model.write(self.name, scaled.flatten(1))

    def packed(self) -> Packed:
        """The same codes with the factors taken into the blocks' half-precision scales."""
        data = self.part.data.reshape(-1, LAYOUTS[self.part.type].type_size)
        factor = self.factor.flatten()
        if self.part.type in CODE_FORMATS:
            coded = CODE_FORMATS[self.part.type]
            codes, params = coded.unpack(data)
            dmin = None if params.dmin is None else _half(params.dmin * factor)
            tuned = coded.pack(codes, replace(params, d=_half(params.d * factor), dmin=dmin))
        else:
            grid = GRID_FORMATS[self.part.type]
            vectors, params = grid.unpack(data)
            tuned = grid.pack(vectors, replace(params, d=_half(params.d * factor)))
        return Packed(self.part.type, tuned.reshape(self.part.data.shape))


def _half(values: Tensor) -> Tensor:
    return values.half().float()


class _gradients:  # noqa: N801
    """Inside the context the knobs' weights and the vectors have gradients, block sums for knobs.

    A matrix's own gradient lives only until the hook that reduces it has run.
    """

    def __init__(self, model: TorchModel, knobs: list[_Knob], vectors: list[str]) -> None:
        self.parameters = [(model.parameter(knob.name), knob) for knob in knobs]
        self.vectors = [model.parameter(name) for name in vectors]

    def __enter__(self) -> None:
        self.hooks = [
            parameter.requires_grad_(True).register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                knob.take_gradient
            )
            for parameter, knob in self.parameters
        ]
        for vector in self.vectors:
            vector.requires_grad_(True)

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
        for parameter in [*self.vectors, *(parameter for parameter, _ in self.parameters)]:
            parameter.requires_grad_(False).grad = None


def _descend(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    knobs: list[_Knob],
    vectors: list[nn.Parameter],
    calibration: Calibration,
    schedule: Schedule,
    report: Report,
) -> None:
    optimizer = torch.optim.Adam([*(knob.factor for knob in knobs), *vectors], RATE, BETAS)
    generator = torch.Generator().manual_seed(calibration.seed)
    for step in range(schedule.n_step):
        report("tuning", step, schedule.n_step)
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        optimizer.param_groups[0]["lr"] = RATE * warm * (1 - step / schedule.n_step)
        drawn = torch.randint(len(calibration.tokens), (schedule.batch_size,), generator=generator)
        tokens = calibration.tokens[drawn].to(schedule.device)
        with torch.no_grad():
            wanted = teacher(tokens).logits.float().log_softmax(-1).flatten(0, 1)
        predicted = student(tokens).logits.float().log_softmax(-1).flatten(0, 1)
        loss = nn.functional.kl_div(predicted, wanted, reduction="batchmean", log_target=True)
        torch.autograd.backward([loss])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for knob in knobs:
            knob.apply()
