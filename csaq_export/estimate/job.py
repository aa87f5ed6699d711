"""A calibrated conversion in numbers: what is asked for, as far as it decides what that takes."""

from dataclasses import dataclass

from csaq_runtime.formats import GGMLType


@dataclass(frozen=True)
class Matrix:
    """One that is rounded: `n_group` curvatures guide its rows."""

    name: str
    type: GGMLType
    n_row: int
    n_col: int
    n_group: int

    @property
    def n_weight(self) -> int:
        """Weights."""
        return self.n_row * self.n_col


@dataclass(frozen=True)
class Job:
    """What is asked for.

    `n_window` windows of `seq_len` tokens are observed `batch_size` at a time, after being
    written by the model if `own_text`; of `n_held` kept back `n_probe` are measured. The
    `matrices` have the types that they will probably have. `sized`: types are chosen for a
    size, which takes `search_seconds`; `others` are what is rounded for the other plans of
    the size, of which `n_other` are measured. `n_sweep`, `n_step`: effort.
    """

    n_window: int
    seq_len: int
    batch_size: int
    n_held: int
    n_probe: int
    matrices: tuple[Matrix, ...]
    out_bytes: int
    sized: bool
    n_sweep: int
    n_step: int
    others: tuple[Matrix, ...] = ()
    n_other: int = 0
    search_seconds: float = 0.0
    own_text: bool = False
    max_memory: int | None = None

    @property
    def n_weight(self) -> int:
        """Of all matrices."""
        return sum(matrix.n_weight for matrix in self.matrices)
