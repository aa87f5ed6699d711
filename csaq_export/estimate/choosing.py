"""Seconds and bytes of choosing types: every matrix measured, then plans of the size compared."""

from dataclasses import replace

from csaq_export.budget.curve import MAX_SAMPLED_ROWS, ladder
from csaq_export.costs import DEAREST_SHARE, MIDDLE, SMALL
from csaq_export.estimate.job import Matrix
from csaq_export.estimate.rounding import decode_rate, loss_seconds
from csaq_export.estimate.setting import Setting
from csaq_export.estimate.stage import Stage
from csaq_export.estimate.work import Work
from csaq_export.footprint import state_bytes, walk_bytes
from csaq_export.room import WALK_BYTES
from csaq_runtime.formats import GGMLType


def types_stage(setting: Setting) -> Stage:
    """A sample of rows of every matrix, rounded to every type."""
    work = sum((_curve(setting, matrix) for matrix in setting.job.matrices), Work())
    seconds = work.clock(setting.n_worker)
    return Stage("measure types", seconds, setting.worker_bytes, setting.statistics_bytes)


def _curve(setting: Setting, matrix: Matrix) -> Work:
    n_row = min(matrix.n_row, MAX_SAMPLED_ROWS)
    types = ladder(matrix.n_col)
    loss = len(types) * loss_seconds(n_row, matrix.n_col, setting.device)
    decoded = n_row * matrix.n_col * sum(decode_rate(kind, setting.device) for kind in types)
    # The groups of a tied embedding share the sample: a trial for their few rows brings little.
    whole = replace(matrix, n_group=1)
    rounded = (setting.encoded(whole, kind, 0, n_row) for kind in types)
    return sum(rounded, Work(free=setting.opened(matrix) + loss + decoded))


def tensors_stage(setting: Setting) -> Stage:
    """Every matrix small in a copy that runs from its layer up; the dearest again as a middle."""
    job, shapes, trial = setting.job, setting.shapes, setting.trial
    n_token, n_matrix = job.n_probe * job.seq_len, len(job.matrices)
    above = sum(shapes.n_layer - _layer(matrix) for matrix in job.matrices)
    walked = n_token * (above * trial.walk + n_matrix * trial.compare)
    # Large matrices are mostly the dearest.
    dearest = sorted(job.matrices, key=lambda m: -m.n_weight)[: -(-n_matrix // DEAREST_SHARE)]
    types = [(matrix, SMALL) for matrix in job.matrices] + [(m, MIDDLE) for m in dearest]
    work = sum((_measured(setting, *each) for each in types), Work())
    original = n_token * (shapes.n_layer * trial.walk + trial.predict)
    seconds = work.clock(setting.n_worker) + (1 + 1 / DEAREST_SHARE) * walked + 2 * original
    memory = max(setting.worker_bytes, _walk_memory(setting, n_matrix))
    return Stage("measure tensors", seconds, memory, setting.statistics_bytes)


def _layer(matrix: Matrix) -> int:
    """The first layer that differs in a copy with this matrix changed."""
    parts = matrix.name.split(".")
    return int(parts[1]) if parts[0] == "blk" else 0


def _measured(setting: Setting, matrix: Matrix, wanted: GGMLType) -> Work:
    """Rounding a matrix, weighing the error, and decoding it twice."""
    types = ladder(matrix.n_col)
    kind = wanted if wanted in types else types[0]
    free = setting.opened(matrix) + loss_seconds(matrix.n_row, matrix.n_col, setting.device)
    free += 2 * matrix.n_weight * decode_rate(kind, setting.device)
    return setting.encoded(matrix, kind, 0) + Work(free=free)


def _walk_memory(setting: Setting, n_copy: int) -> int:
    """Of copies that walk together, as many as there is room for, and weights that stay."""
    job, device = setting.job, setting.device
    taken = walk_bytes(setting.shapes, job.seq_len, device)
    states = (n_copy + 1) * state_bytes(setting.shapes, job.n_probe * job.seq_len, device)
    if device.type == "cpu":
        taken += min(states, WALK_BYTES, max(0, setting.limit - taken))
    return taken + setting.kept_bytes(taken)


def round_stage(setting: Setting) -> Stage:
    """Every matrix; where plans are compared the first is measured, too."""
    job = setting.job
    seconds = setting.rounding_seconds(job.matrices)
    memory = setting.worker_bytes
    if job.n_other:
        seconds += setting.copy_seconds()
        memory = max(memory, _walk_memory(setting, 1))
    else:
        seconds += job.search_seconds
    disk = setting.statistics_bytes + setting.packed_bytes(job.matrices)
    return Stage("round", seconds, memory, disk)


def compare_stage(setting: Setting) -> Stage:
    """What other plans and the preset have of their own is rounded; all run, two of them twice."""
    job = setting.job
    rounding = setting.rounding_seconds(job.others)
    copies = (job.n_other + 1) * setting.copy_seconds()
    memory = max(setting.worker_bytes, _walk_memory(setting, 1))
    disk = setting.statistics_bytes + setting.packed_bytes((*job.matrices, *job.others))
    return Stage("compare", rounding + copies + job.search_seconds, memory, disk)
