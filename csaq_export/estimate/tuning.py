"""Seconds and bytes of tuning scales and norms: steps of a teacher and a student."""

import torch

from csaq_export.estimate.clock import steady
from csaq_export.estimate.setting import Setting
from csaq_export.estimate.stage import Stage
from csaq_export.footprint import tuning_bytes
from csaq_export.guidance import TOKENS_AT_ONCE

_ROWS, _COLUMNS, _BLOCK = 256, 4096, 256


def tune_stage(setting: Setting) -> Stage:
    """Both models forward, one back, its scales applied; it is measured before and after."""
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token = job.batch_size * job.seq_len
    teacher = shapes.n_layer * trial.walk + trial.predict
    student = shapes.n_layer * trial.train + trial.train_head
    step = n_token * (teacher + student) + shapes.n_weight * _scaling_rate(setting.device)
    probes = 3 * job.n_held * job.seq_len * teacher
    memory = tuning_bytes(shapes, TOKENS_AT_ONCE, setting.device)
    matrices = (*job.matrices, *job.others, *job.matrices)
    packed = setting.statistics_bytes + setting.packed_bytes(matrices)
    return Stage("tune", job.n_step * step + probes, memory, packed)


def _scaling_rate(device: torch.device) -> float:
    """Seconds per weight of reducing gradients to blocks and scaling the blocks by factors."""
    blocks = torch.ones(_ROWS, _COLUMNS // _BLOCK, _BLOCK, device=device)
    gradient, factor = torch.ones_like(blocks), torch.ones(blocks.shape[:2], device=device)
    weight = torch.empty(_ROWS, _COLUMNS, device=device)

    def work() -> None:
        (gradient * blocks).sum(-1)
        weight.copy_((blocks * factor[:, :, None]).flatten(1))

    return steady(work, device) / weight.numel()
