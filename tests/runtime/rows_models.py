"""Rows files of tiny random models, and stock files of the weights that they stand for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from tests.runtime.tiny_models import Tensors, gguf_keys, gguf_tensors, random_model, write_gguf

SHAPE: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 96}
TIERS = ((16, Type.F16, 5), (8, Type.Q8_0, 18), (4, Type.Q4_0, None))
"""(bits, type, rows): None takes the rest."""

Stored = dict[str, tuple[NDArray[Any], Type | None]]


@dataclass
class RowsModel:
    """`stored` goes into the rows file; `meant` are the weights that it stands for."""

    architecture: str
    keys: dict[str, Any]
    stored: Stored = field(default_factory=dict)
    meant: Tensors = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        """The rows file."""
        keys = {
            key.replace(f"{self.architecture}.", f"csaq-{self.architecture}.", 1): value
            for key, value in self.keys.items()
        }
        return write_stored(path, f"csaq-{self.architecture}", keys, self.stored)

    def write_stock(self, path: Path) -> Path:
        """An F32 file of the weights meant."""
        return write_gguf(path, self.architecture, self.keys, self.meant)


def write_stored(path: Path, architecture: str, keys: Mapping[str, Any], stored: Stored) -> Path:
    """Write a GGUF of packed tensors."""
    plain = {name: value for name, (value, kind) in stored.items() if kind is None}
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        kinds: dict[type, Callable[[str, Any], None]] = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
        }
        kinds[type(value)](key, value)
    for name, (value, kind) in stored.items():
        writer.add_tensor(name, value, raw_dtype=None if name in plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def in_tiers(
    model: RowsModel,
    name: str,
    weight: NDArray[np.float32],
    chance: np.random.Generator,
    tiers: tuple[tuple[int, Type, int | None], ...] = TIERS,
) -> None:
    """Store matrix `name` (without `.weight`) as tiers of rows in a random order."""
    order = chance.permutation(len(weight)).astype(np.int32)
    meant, start = np.empty_like(weight), 0
    for n_bit, kind, wanted in tiers:
        n_row = len(weight) - start if wanted is None else wanted
        rows = order[start : start + n_row]
        packed = gguf.quants.quantize(weight[rows], kind)
        meant[rows] = gguf.quants.dequantize(packed, kind)
        model.stored[f"{name}.weight.b{n_bit}"] = (packed, kind)
        start += n_row
    model.stored[f"{name}.rows"] = (order, None)
    model.meant[f"{name}.weight"] = meant


def with_outliers(model: RowsModel, name: str, share: float, chance: np.random.Generator) -> None:
    """Give some weights of matrix `name` what they lack, rounded to float16."""
    meant = model.meant[f"{name}.weight"]
    here = chance.random(meant.shape) < share
    values = chance.normal(0, 0.3, int(here.sum())).astype(np.float16)
    meant[here] += values.astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(here.sum(1))]).astype(np.int32)
    model.stored[f"{name}.outlier_values"] = (values, None)
    model.stored[f"{name}.outlier_columns"] = (np.nonzero(here)[1].astype(np.int32), None)
    model.stored[f"{name}.outlier_offsets"] = (offsets, None)


def with_lowrank(model: RowsModel, name: str, rank: int, chance: np.random.Generator) -> None:
    """Multiply some input columns of matrix `name` by a factor too."""
    meant = model.meant[f"{name}.weight"]
    columns = chance.permutation(meant.shape[1])[:rank].astype(np.int32)
    factor = chance.normal(0, 0.1, (len(meant), rank)).astype(np.float32)
    meant[:, columns] += factor
    model.stored[f"{name}.lowrank"] = (factor, None)
    model.stored[f"{name}.lowrank_columns"] = (columns, None)


def rows_model(
    architecture: str,
    tiers: tuple[tuple[int, Type, int | None], ...] = TIERS,
    outliers: float = 0.0,
    rank: int = 0,
    **changes: Any,
) -> RowsModel:
    """A random model with all matrices in tiers, and corrections in those of its layers."""
    source = random_model(architecture, **(SHAPE | changes))
    model = RowsModel(architecture, gguf_keys(source, architecture))
    chance = np.random.default_rng(3)
    for name, value in gguf_tensors(source, architecture).items():
        base = name.removesuffix(".weight")
        if value.ndim == 1:
            model.stored[name], model.meant[name] = (value, None), value
            continue
        in_tiers(model, base, value, chance, tiers)
        if base.startswith("blk.") and outliers:
            with_outliers(model, base, outliers, chance)
        if base.startswith("blk.") and rank:
            with_lowrank(model, base, rank, chance)
    return model
