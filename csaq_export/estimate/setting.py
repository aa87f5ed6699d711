"""What the stages' estimates share: the job, the model's shapes, the trial, the machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from csaq_export.device import compute_dtype
from csaq_export.estimate.job import Job, Matrix
from csaq_export.estimate.layers import LayerTrial
from csaq_export.estimate.rounding import decode_rate, factor_seconds, rounding_work
from csaq_export.estimate.work import Work
from csaq_export.footprint import Shapes, n_worker, worker_bytes
from csaq_runtime.formats import LAYOUTS, GGMLType


@dataclass(frozen=True)
class Setting:
    """`limit`: bytes that may be used."""

    job: Job
    shapes: Shapes
    trial: LayerTrial
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

    @property
    def worker_bytes(self) -> int:
        """What they take."""
        return worker_bytes(self.shapes, self.n_worker, self.device)

    @property
    def statistics_bytes(self) -> int:
        """Curvatures mostly; sketches of rows and salience of blocks beside them."""
        rows = sum(4 * (64 + 2 + -(-m.n_col // 256)) * m.n_row for m in self.job.matrices)
        squares = sum(n_col * n_col for _, n_col in (*self.shapes.matrices, self.shapes.embedding))
        return 4 * squares + rows

    def packed_bytes(self, matrices: Sequence[Matrix]) -> int:
        """Of matrices when they are rounded."""
        return int(sum(m.n_weight * LAYOUTS[m.type].bpw / 8 for m in matrices))

    def kept_bytes(self, taken: int) -> int:
        """Weights that stay in memory beside what a stage takes."""
        width = compute_dtype(self.device).itemsize
        return min(width * self.shapes.n_weight, max(0, self.limit - taken))

    def opened(self, matrix: Matrix) -> float:
        """Core seconds from the files to a matrix's weights and what guides its rounding."""
        read = matrix.n_weight * self.trial.read + 4 * matrix.n_col**2 * self.trial.load
        return read + matrix.n_group * factor_seconds(matrix.n_col, self.device)

    def encoded(
        self, matrix: Matrix, ggml_type: GGMLType, n_sweep: int, n_row: int | None = None
    ) -> Work:
        """Rounding a matrix, or `n_row` rows of every group."""
        shape = n_row or -(-matrix.n_row // matrix.n_group), matrix.n_col
        one = rounding_work(ggml_type, shape, n_sweep, self.device, self.n_worker)
        return one.times(matrix.n_group)

    def rounding_seconds(self, matrices: Sequence[Matrix]) -> float:
        """Seconds of rounding them from the files at the job's effort, side by side."""
        works = (
            self.encoded(m, m.type, self.job.n_sweep) + Work(free=self.opened(m)) for m in matrices
        )
        return sum(works, Work()).clock(self.n_worker)

    def copy_seconds(self) -> float:
        """Seconds of measuring one candidate: its weights decoded, it and the original run."""
        job, trial = self.job, self.trial
        n_token = job.n_probe * job.seq_len
        decoded = sum(m.n_weight * decode_rate(m.type, self.device) for m in job.matrices)
        layers = 2 * self.shapes.n_layer * trial.walk
        return decoded / self.n_core + n_token * (layers + trial.predict + trial.compare)
