"""A calibrated conversion's Estimate: what each of its stages does, times what a trial took."""

from dataclasses import dataclass
from math import prod

import torch

from csaq_export.budget.curve import MAX_SAMPLED_ROWS, ladder
from csaq_export.budget.walk import WALK_BYTES
from csaq_export.costs import DEAREST_SHARE
from csaq_export.device import compute_dtype
from csaq_export.estimate.encoders import Encoders
from csaq_export.estimate.layers import LayerTrial, try_layer
from csaq_export.estimate.stage import Estimate, Stage
from csaq_export.footprint import (
    LOGIT_COPIES,
    PROCESS_BYTES,
    Shapes,
    calibration_bytes,
    memory_limit,
    n_worker,
    rounding_bytes,
    shapes_of,
    tuning_bytes,
)
from csaq_export.layered_model import LayeredModel
from csaq_runtime.formats import LAYOUTS, GGMLType

# Swaps that together round as many matrices anew as the model has.
SWAPS_PER_ROUNDING = 4


@dataclass(frozen=True)
class Job:
    """What is asked for, in numbers.

    `n_window` windows of `seq_len` tokens are observed `n_batch` at a time and `n_probe` of
    those kept back measured; `bpw` of the matrices; `sized`: types are chosen for a size,
    `compared` with a preset and `n_swap` plans of that size; `n_sweep`, `n_step`: effort.
    """

    n_window: int
    seq_len: int
    batch_size: int
    n_probe: int
    bpw: float
    out_bytes: int
    sized: bool
    compared: bool
    n_sweep: int
    n_step: int
    n_swap: int = 0
    max_memory: int | None = None


@dataclass(frozen=True)
class _Setting:
    job: Job
    shapes: Shapes
    trial: LayerTrial
    encoders: Encoders
    device: torch.device
    limit: int

    @property
    def n_core(self) -> int:
        """Cores that share core seconds; a GPU counts as one."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    @property
    def n_worker(self) -> int:
        """Matrices rounded side by side."""
        return min(self.n_core, n_worker(self.shapes, self.limit, self.device))

    def rounding(self) -> float:
        """Core seconds of rounding every matrix at the job's effort."""
        return sum(
            self.encoders.guided(nearest_type(n_col, self.job.bpw), n_row, n_col, self.job.n_sweep)
            for n_row, n_col in self.shapes.matrices
        )


def estimate_calibrated(model: LayeredModel, job: Job, device: torch.device) -> Estimate:
    """Runs one layer, the head and encoders on a few rows: seconds for models of any size."""
    shapes = shapes_of(list(model.slots.values()), model.tied)
    trial = try_layer(model, job.batch_size * job.seq_len, job.seq_len, device)
    limit = memory_limit(job.max_memory, device)
    setting = _Setting(job, shapes, trial, Encoders(device), device, limit)
    stages = [_calibrate(setting)]
    stages += [_types(setting), _tensors(setting)] if job.sized else []
    stages.append(_round(setting, "round", 1))
    stages += [_compare(setting)] if job.compared else []
    stages += [_tune(setting)] if job.n_step else []
    statistics = _statistics_bytes(shapes)
    packed = int(job.bpw * shapes.n_weight / 8)
    stages.append(Stage("write", 0.0, PROCESS_BYTES["cpu"], statistics + packed + job.out_bytes))
    return Estimate(str(device), tuple(stages))


def nearest_type(n_col: int, bpw: float) -> GGMLType:
    """The type that most matrices of rows of `n_col` will have."""
    return min(ladder(n_col), key=lambda t: abs(LAYOUTS[t].bpw - bpw))


def _statistics_bytes(shapes: Shapes) -> int:
    """Curvatures mostly; sketches of rows and salience of blocks beside them."""
    rows = {shape: 4 * (64 + 2 + -(-shape[1] // 256)) * shape[0] for shape in shapes.matrices}
    squares = 4 * sum(n_col * n_col for _, n_col in (*shapes.matrices, shapes.embedding))
    return squares + sum(rows[shape] for shape in shapes.matrices)


def _weights_kept(setting: _Setting, needed: int) -> int:
    width = compute_dtype(setting.device).itemsize
    return min(width * setting.shapes.n_weight, max(0, setting.limit - needed))


def _calibrate(setting: _Setting) -> Stage:
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token = job.n_window * job.seq_len
    per_token = shapes.n_layer * (trial.forward + trial.observe) + trial.head
    memory = calibration_bytes(shapes, job.batch_size * job.seq_len, setting.device)
    boundary = n_token * shapes.embedding[1] * compute_dtype(setting.device).itemsize
    # Inputs of all layers and one gradient; statistics grow as inputs go.
    disk = (shapes.n_layer + 2) * boundary + _statistics_bytes(shapes) // max(1, shapes.n_layer)
    disk = max(disk, 2 * boundary + _statistics_bytes(shapes))
    kept = _weights_kept(setting, memory)
    return Stage("calibrate", n_token * per_token / setting.n_core, memory + kept, disk)


def _workers_bytes(setting: _Setting, n: int) -> int:
    each = (rounding_bytes(shape, setting.device) for shape in setting.shapes.matrices)
    largest = sorted(each, reverse=True)
    return PROCESS_BYTES[setting.device.type] + sum(largest[:n])


def _types(setting: _Setting) -> Stage:
    seconds = sum(
        setting.encoders.guided(kind, min(n_row, MAX_SAMPLED_ROWS), n_col, 0)
        for n_row, n_col in setting.shapes.matrices
        for kind in ladder(n_col)
    )
    memory = _workers_bytes(setting, setting.n_worker)
    disk = _statistics_bytes(setting.shapes)
    return Stage("measure types", seconds / setting.n_worker, memory, disk)


def _tensors(setting: _Setting) -> Stage:
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token = job.n_probe * job.seq_len
    n_matrix, above = len(shapes.matrices), (shapes.n_layer + 1) / 2
    runs = len(shapes.layer) * shapes.n_layer * above + (1 + shapes.tied) * shapes.n_layer
    forward = n_token * (runs * trial.forward + 2 * n_matrix * trial.predict)
    small = sum(
        setting.encoders.guided(nearest_type(n_col, LAYOUTS[GGMLType.Q2_K].bpw), n_row, n_col, 0)
        for n_row, n_col in shapes.matrices
    )
    share = 1 + 1 / DEAREST_SHARE
    seconds = share * (forward / setting.n_core + small / setting.n_worker)
    logits = 4 * LOGIT_COPIES * job.seq_len * shapes.embedding[0]
    memory = max(_workers_bytes(setting, setting.n_worker), PROCESS_BYTES[setting.device.type]
                 + logits + 8 * prod(shapes.embedding)) + WALK_BYTES  # fmt: skip
    return Stage("measure tensors", seconds, memory, _statistics_bytes(shapes))


def _round(setting: _Setting, name: str, n: int) -> Stage:
    packed = int(n * setting.job.bpw * setting.shapes.n_weight / 8)
    seconds = setting.rounding() / setting.n_worker
    memory = _workers_bytes(setting, setting.n_worker)
    return Stage(name, seconds, memory, _statistics_bytes(setting.shapes) + packed)


def _compare(setting: _Setting) -> Stage:
    """The preset's matrices are rounded too, and some for every swap; all copies run."""
    job, trial = setting.job, setting.trial
    n_token = (2 + job.n_swap) * job.n_probe * job.seq_len
    forward = n_token * 2 * (setting.shapes.n_layer * trial.forward + trial.predict)
    rounded = _round(setting, "compare", 2 + job.n_swap // SWAPS_PER_ROUNDING)
    seconds = rounded.seconds * (1 + job.n_swap / SWAPS_PER_ROUNDING)
    return Stage("compare", seconds + forward / setting.n_core, rounded.memory,
                 rounded.disk)  # fmt: skip


def _tune(setting: _Setting) -> Stage:
    """A step is a forward pass of the original and three of the copy."""
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token = job.n_step * job.batch_size * job.seq_len
    seconds = n_token * 4 * (shapes.n_layer * trial.forward + trial.predict) / setting.n_core
    memory = tuning_bytes(shapes, job.batch_size * job.seq_len, setting.device)
    packed = int(2 * job.bpw * shapes.n_weight / 8)
    return Stage("tune", seconds, memory, _statistics_bytes(shapes) + packed)
