"""A calibrated conversion's Estimate: what each of its stages does, times what a trial took.

write text        where there is none: the model writes it
calibrate         windows through every layer forward and backward, with statistics
measure types     a sample of every matrix's rows as every type
measure tensors   every matrix small and alone in a copy that runs; some again
round             every matrix
compare           other plans of the size and the preset: what differs is rounded, copies run
tune              steps of two whole models
write             the file
"""

from pathlib import Path

import torch

from csaq_export.device import compute_dtype
from csaq_export.estimate.choosing import compare_stage, round_stage, tensors_stage, types_stage
from csaq_export.estimate.first_touch import with_first_touch
from csaq_export.estimate.job import Job
from csaq_export.estimate.layers import try_layer
from csaq_export.estimate.setting import Setting
from csaq_export.estimate.stage import Estimate, Stage
from csaq_export.estimate.text import text_stage
from csaq_export.estimate.tuning import tune_stage
from csaq_export.footprint import (
    PROCESS_BYTES,
    calibration_bytes,
    memory_limit,
    shapes_of,
    state_bytes,
)
from csaq_export.layered_model import LayeredModel


def estimate_calibrated(
    folder: Path, model: LayeredModel, job: Job, device: torch.device
) -> Estimate:
    """Runs one layer, the head and encoders on a few blocks: seconds for models of any size."""
    shapes, limit = shapes_of(model.slots.values()), memory_limit(job.max_memory, device)
    setting = Setting(job, shapes, try_layer(model, job, device), device, limit)
    stages = [text_stage(folder, job, shapes)] if job.own_text else []
    stages.append(_calibrate(setting))
    stages += [types_stage(setting), tensors_stage(setting)] if job.sized else []
    stages.append(round_stage(setting))
    stages += [compare_stage(setting)] if job.n_other else []
    stages += [tune_stage(setting)] if job.n_step else []
    stages.append(_write(setting, stages[-1]))
    return Estimate(str(device), with_first_touch(stages, device))


def _calibrate(setting: Setting) -> Stage:
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token = job.n_window * job.seq_len
    per_token = shapes.n_layer * (trial.forward + trial.observe) + trial.head
    at_once = min(job.batch_size, job.n_window) * job.seq_len
    memory = calibration_bytes(shapes, at_once, setting.device)
    boundary = state_bytes(shapes, n_token, setting.device)
    # Inputs of all layers and one gradient; statistics grow as inputs go.
    disk = (shapes.n_layer + 2) * boundary + setting.statistics_bytes // max(1, shapes.n_layer)
    disk = max(disk, 2 * boundary + setting.statistics_bytes)
    kept = setting.kept_bytes(memory)
    seconds = n_token * per_token + _placed_seconds(setting, kept)
    seconds += trial.save * setting.statistics_bytes
    return Stage("calibrate", seconds, memory + kept, disk)


def _placed_seconds(setting: Setting, kept: int) -> float:
    """All weights come from their files; on the way back layers do again that were not kept."""
    shapes = setting.shapes
    gone = 1 - kept / (compute_dtype(setting.device).itemsize * shapes.n_weight)
    n_weight = shapes.n_weight + gone * shapes.n_layer * shapes.layer_weights
    return setting.trial.place * n_weight


def _write(setting: Setting, before: Stage) -> Stage:
    """Matrices go from one file into another; the process still has about half of what it took."""
    job, trial = setting.job, setting.trial
    seconds = (trial.load + trial.save) * job.out_bytes
    rounded = setting.packed_bytes((*job.matrices, *job.others))
    disk = setting.statistics_bytes + rounded + job.out_bytes
    memory = PROCESS_BYTES["cpu"]
    if setting.device.type == "cpu":
        memory += max(0, before.memory - memory) // 2
    return Stage("write", seconds, memory, disk)
