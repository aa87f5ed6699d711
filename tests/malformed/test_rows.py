"""Hostile rows files: each ends in one GGUFError that names the tensor, before a kernel runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.errors import GGUFError, ModelError
from tests.runtime.rows_models import RowsModel, Stored, rows_model, write_stored

UP = "blk.0.ffn_up"
Edit = Callable[[Stored], Any]


@pytest.fixture(scope="module")
def model() -> RowsModel:
    return rows_model("llama", outliers=0.05, rank=8, num_hidden_layers=1)


def put(name: str, index: int, value: float) -> Edit:
    """Set one item of a vector."""

    def edit(stored: Stored) -> None:
        changed = stored[f"{UP}.{name}"][0].copy()
        changed[index] = value
        stored[f"{UP}.{name}"] = (changed, None)

    return edit


def take(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    """Replace a tensor by what `change` makes of it."""

    def edit(stored: Stored) -> None:
        value, kind = stored[f"{UP}.{name}"]
        stored[f"{UP}.{name}"] = (change(value), kind)

    return edit


def drop(name: str) -> Edit:
    return lambda stored: stored.pop(f"{UP}.{name}")


def add(name: str, value: NDArray[Any], kind: Type | None = None) -> Edit:
    return lambda stored: stored.update({f"{UP}.{name}": (value, kind)})


def falling(offsets: NDArray[Any]) -> NDArray[Any]:
    changed = offsets.copy()
    changed[4] = changed[6] + 1
    return changed


def twice(columns: NDArray[Any]) -> NDArray[Any]:
    changed = columns.copy()
    changed[1] = changed[0]
    return changed


ONE_ROW = np.zeros((1, 64), np.float32)
CASES: dict[str, tuple[Edit, str, str]] = {
    "no tier at all": (
        lambda s: [s.pop(f"{UP}.weight.b{n}") for n in (16, 8, 4)], "weight", "is missing"),
    "a tier missing": (drop("weight.b8"), "weight.b4", "the tiers hold 78 rows"),
    "a tier too many": (add("weight.b2", ONE_ROW), "weight.b2", "the tiers hold 97 rows"),
    "plain beside tiers": (add("weight", ONE_ROW), "weight", "stands beside the tier"),
    "rows of another width": (
        add("weight.b4", np.zeros((73, 32), np.float32)), "weight.b4", "shape"),
    "a tier that is a vector": (add("weight.b4", np.zeros(64, np.float32)), "weight.b4", "shape"),
    "a tier of integers": (add("weight.b4", np.zeros((73, 64), np.int32)), "weight.b4", "type I32"),
    "a tier of 40 bits": (add("weight.b40", ONE_ROW), "weight.b40", "does not belong"),
    "a tier of 08 bits": (add("weight.b08", ONE_ROW), "weight.b08", "does not belong"),
    "rows too few": (take("rows", lambda r: r[:-1]), "rows", "shape"),
    "rows as floats": (take("rows", lambda r: r.astype(np.float32)), "rows", "type F32"),
    "rows as a matrix": (take("rows", lambda r: r[None]), "rows", "shape"),
    "a row twice": (take("rows", lambda r: np.where(r == 5, 6, r)), "rows", "not a permutation"),
    "a row beyond": (put("rows", 3, 96), "rows", "outside 0 … 95"),
    "a row below": (put("rows", 3, -1), "rows", "outside 0 … 95"),
    "outliers without values": (drop("outlier_values"), "outlier_values", "is missing"),
    "outliers without columns": (drop("outlier_columns"), "outlier_columns", "is missing"),
    "outliers without offsets": (drop("outlier_offsets"), "outlier_offsets", "is missing"),
    "a column beyond": (put("outlier_columns", 0, 64), "outlier_columns", "outside 0 … 63"),
    "a column below": (put("outlier_columns", 0, -(2**31)), "outlier_columns", "outside"),
    "a column twice": (take("outlier_columns", twice), "outlier_columns", "not above"),
    "columns too few": (take("outlier_columns", lambda c: c[:-1]), "outlier_values", "values for"),
    "offsets too few": (take("outlier_offsets", lambda o: o[:-1]), "outlier_offsets", "shape"),
    "offsets from 1": (put("outlier_offsets", 0, 1), "outlier_offsets", "run from 1"),
    "offsets beyond": (put("outlier_offsets", -1, 2**31 - 1), "outlier_offsets", "run from 0"),
    "offsets that fall": (take("outlier_offsets", falling), "outlier_offsets", "below the one"),
    "a value NaN": (put("outlier_values", 2, np.nan), "outlier_values", "item 2 is not finite"),
    "values as integers": (
        take("outlier_values", lambda v: v.astype(np.int32)), "outlier_values", "I32"),
    "a factor without columns": (drop("lowrank_columns"), "lowrank_columns", "is missing"),
    "columns without a factor": (drop("lowrank"), "lowrank", "is missing"),
    "a factor too short": (take("lowrank", lambda f: f[:-1]), "lowrank", "shape"),
    "a factor's column beyond": (put("lowrank_columns", 0, 64), "lowrank_columns", "outside"),
    "a factor's column twice": (take("lowrank_columns", twice), "lowrank_columns", "twice"),
    "a factor's columns too few": (
        take("lowrank_columns", lambda c: c[:-1]), "lowrank_columns", "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_hostile_rows_file_is_refused_by_tensor_name(
    model: RowsModel, case: tuple[Edit, str, str], tmp_path: Path
) -> None:
    edit, name, reason = case
    changed = RowsModel(model.architecture, model.keys, dict(model.stored))
    edit(changed.stored)
    path = changed.write(tmp_path / "hostile.gguf")
    kind = ModelError if reason == "does not belong" else GGUFError
    with pytest.raises(kind) as caught:
        Engine.open(path, n_threads=1)
    assert f"{UP}.{name}" in str(caught.value)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{path}: tensor")
    assert "\n" not in str(caught.value)


def test_a_lookup_table_has_nothing_beside_its_tiers(model: RowsModel, tmp_path: Path) -> None:
    changed = RowsModel(model.architecture, model.keys, dict(model.stored))
    changed.stored["token_embd.lowrank"] = (np.zeros((96, 2), np.float32), None)
    changed.stored["token_embd.lowrank_columns"] = (np.array([0, 1], np.int32), None)
    with pytest.raises(GGUFError, match=r"token_embd\.weight: may have nothing but tiers"):
        Engine.open(changed.write(tmp_path / "hostile.gguf"))


def test_tiers_in_a_stock_file_are_refused(model: RowsModel, tmp_path: Path) -> None:
    path = write_stored(tmp_path / "hostile.gguf", "llama", model.keys, model.stored)
    with pytest.raises(ModelError, match=r"token_embd\.weight: missing"):
        Engine.open(path)
