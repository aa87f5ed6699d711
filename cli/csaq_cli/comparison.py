"""Two GGUFs → what differs: metadata keys, tensors, types, bytes and the weights themselves.

Weights are compared a few rows at a time, so memory does not grow with the files.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from csaq_cli.inventory import abbreviated
from csaq_runtime.formats import dequantize
from csaq_runtime.gguf import GGUFFile, TensorInfo

CHUNK_BYTES = 8 * 2**20
"""Packed bytes of a tensor that are compared at a time."""


@dataclass(frozen=True)
class KeyChange:
    """A metadata key whose values differ; None (and not a value) where a file lacks it."""

    key: str
    a: Any
    b: Any


@dataclass(frozen=True)
class TensorChange:
    """A tensor of both files: types, packed bytes and the error of B's weights against A's.

    `error` is the root mean square difference over the root mean square of A's weights; None
    where the shapes differ or a type holds no weights. `same_bytes`: not a bit differs.
    """

    name: str
    a_type: str
    b_type: str
    a_bytes: int
    b_bytes: int
    same_bytes: bool
    error: float | None


@dataclass(frozen=True)
class Comparison:
    """What distinguishes two files; sizes in bytes. Tensors without a difference are counted."""

    a_bytes: int
    b_bytes: int
    keys: list[KeyChange]
    only_a: list[str]
    only_b: list[str]
    changed: list[TensorChange]
    n_same: int

    @property
    def identical(self) -> bool:
        """Whether metadata and tensors agree (the order of either may differ)."""
        return not (self.keys or self.only_a or self.only_b or self.changed)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"identical": self.identical, **asdict(self)}


def compare_files(
    a: GGUFFile, b: GGUFFile, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Compare `a` with `b`; `progress` gets tensors done and in all. Raises GGUFError."""
    common = [name for name in a.tensors if name in b.tensors]
    changes = []
    for done, name in enumerate(common):
        progress(done, len(common))
        changes.append(_compare_tensor(a, b, name))
    progress(len(common), len(common))
    changed = [change for change in changes if not change.same_bytes]
    return Comparison(
        a_bytes=a.path.stat().st_size,
        b_bytes=b.path.stat().st_size,
        keys=_key_changes(a, b),
        only_a=[name for name in a.tensors if name not in b.tensors],
        only_b=[name for name in b.tensors if name not in a.tensors],
        changed=changed,
        n_same=len(changes) - len(changed),
    )


def _key_changes(a: GGUFFile, b: GGUFFile) -> list[KeyChange]:
    keys = dict.fromkeys([*a.metadata, *b.metadata])
    pairs = ((key, a.metadata.get(key), b.metadata.get(key)) for key in keys)
    return [
        KeyChange(key, abbreviated(one), abbreviated(other))
        for key, one, other in pairs
        if not _equal(one, other)
    ]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _compare_tensor(a: GGUFFile, b: GGUFFile, name: str) -> TensorChange:
    one, other = a.tensors[name], b.tensors[name]
    alike = one.shape == other.shape
    same = alike and one.type == other.type and np.array_equal(a.data(name), b.data(name))
    error = 0.0 if same else _error(a, b, name) if alike else None
    return TensorChange(
        name, _described(one, alike), _described(other, alike), one.n_bytes, other.n_bytes,
        same, error,
    )  # fmt: skip


def _described(tensor: TensorInfo, alike: bool) -> str:
    """The type; with the shape where that is what differs."""
    return tensor.type.name if alike else f"{tensor.type.name} {list(tensor.shape)}"


def _error(a: GGUFFile, b: GGUFFile, name: str) -> float | None:
    difference = energy = 0.0
    try:
        for one, other in _chunks(a, b, name):
            difference += float(np.square(one - other).sum())
            energy += float(np.square(one).sum())
    except ValueError:
        return None
    return (difference / energy) ** 0.5 if energy else float(np.inf) if difference else 0.0


def _chunks(
    a: GGUFFile, b: GGUFFile, name: str
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The weights of both, some rows at a time; ValueError where a type holds none."""
    packed = [(file.data(name), file.tensors[name].type) for file in (a, b)]
    n_row = len(packed[0][0])
    step = max(1, CHUNK_BYTES // max(rows.shape[1] for rows, _ in packed))
    for start in range(0, n_row, step):
        one, other = (
            dequantize(rows[start : start + step], kind).astype(np.float64) for rows, kind in packed
        )
        yield one, other
