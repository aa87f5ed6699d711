"""Errors are no larger than llama.cpp's own encoders leave, with importance and without.

Measured live against `ggml_quantize_chunk` on three kinds of weights, and against frozen
figures, so that a change of either side is seen.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from csaq_export.quantize import CODE_FORMATS, decode, encode
from csaq_export.quantize.grid_format import GRID_FORMATS
from csaq_runtime.formats import GGMLType

SCRIPT = Path(__file__).with_name("ggml_reference.py")
CODES = [ggml_type.name for ggml_type in CODE_FORMATS]
GRIDS = [ggml_type.name for ggml_type in GRID_FORMATS]
# ggml refuses these two-bit types without importance.
WITHOUT = [name for name in CODES + GRIDS if name not in ("IQ2_XXS", "IQ2_XS")]
KINDS = ("normal", "heavy", "columns")
N_COL = 512
N_ROW, N_LIVE = 48, 16

# Root of the (weighted) squared error over that of the weights which xllamacpp 2026.10.11549
# leaves on "normal": without importance (IQ2_XXS and IQ2_XS: with ones), with it.
FROZEN: dict[str, tuple[float, float]] = {
    "Q4_0": (0.085514, 0.075852),
    "Q4_1": (0.078188, 0.062543),
    "Q5_0": (0.04258, 0.038091),
    "Q5_1": (0.037676, 0.030161),
    "Q8_0": (0.0053385, 0.0054454),
    "Q2_K": (0.29714, 0.22637),
    "Q3_K": (0.15022, 0.1295),
    "Q4_K": (0.07129, 0.063528),
    "Q5_K": (0.036006, 0.032284),
    "Q6_K": (0.017607, 0.015856),
    "IQ4_NL": (0.075925, 0.069264),
    "IQ4_XS": (0.076511, 0.070021),
    "MXFP4": (0.11381, 0.11301),
    "IQ2_XXS": (0.34193, 0.2707),
    "IQ2_XS": (0.29777, 0.23805),
    "IQ2_S": (0.26389, 0.21593),
    "IQ3_XXS": (0.21205, 0.13514),
    "IQ3_S": (0.16542, 0.10953),
}
# What ours must stay below with importance.
MARGIN = 0.99
# Of the figures above.
ROUNDING = 1.0001


def sample(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(N_ROW, N_COL, generator=generator) * 0.02
    if kind == "heavy":
        weight *= (torch.rand(N_ROW, N_COL, generator=generator) + 0.1) ** -0.5
    if kind == "columns":
        weight[:, ::97] *= 8
    return weight


def importance() -> torch.Tensor:
    return torch.rand(N_COL, generator=torch.Generator().manual_seed(12)) ** 4 + 0.01


def relative_error(
    packed: torch.Tensor, name: str, weight: torch.Tensor, counts: torch.Tensor | None
) -> float:
    weights = torch.ones(N_COL) if counts is None else counts
    error = decode(packed, GGMLType[name]) - weight
    ratio = (error.square() * weights).sum() / (weight.square() * weights).sum()
    return float(ratio.sqrt())


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, bool], float]:
    """ggml's errors by kind, type and whether importance was given."""
    folder = tmp_path_factory.mktemp("ggml")
    weight = np.concatenate([sample(kind)[:N_LIVE] for kind in KINDS])
    request = {"plain": WITHOUT, "weighted": CODES + GRIDS, "importance": importance().numpy()}
    np.savez(folder / "in.npz", weight=weight, **request)
    command = [sys.executable, str(SCRIPT), "in.npz", "out.npz"]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    errors = {}
    for key, packed in np.load(folder / "out.npz").items():
        way, name = key.split()
        counts = importance() if way == "weighted" else None
        for place, kind in enumerate(KINDS):
            rows = torch.from_numpy(packed[place * N_LIVE : (place + 1) * N_LIVE])
            error = relative_error(rows, name, sample(kind)[:N_LIVE], counts)
            errors[kind, name, counts is not None] = error
    return errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WITHOUT)
def test_error_is_no_larger_than_ggmls(
    name: str, kind: str, peer: dict[tuple[str, str, bool], float]
) -> None:
    weight = sample(kind)[:N_LIVE]
    ours = relative_error(encode(weight, GGMLType[name]), name, weight, None)
    assert ours <= peer[kind, name, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CODES + GRIDS)
def test_weighted_error_is_below_ggmls_with_the_same_imatrix(
    name: str, kind: str, peer: dict[tuple[str, str, bool], float]
) -> None:
    weight, counts = sample(kind)[:N_LIVE], importance()
    ours = relative_error(encode(weight, GGMLType[name], counts), name, weight, counts)
    assert ours < MARGIN * peer[kind, name, True]


@pytest.mark.parametrize("name", CODES + GRIDS)
def test_error_stays_below_the_frozen_figures(name: str) -> None:
    weight, counts = sample("normal"), importance()
    plain, weighted = FROZEN[name]
    assert relative_error(encode(weight, GGMLType[name]), name, weight, None) <= ROUNDING * plain
    ours = relative_error(encode(weight, GGMLType[name], counts), name, weight, counts)
    assert ours < MARGIN * weighted


def test_importance_lowers_the_weighted_error_of_every_type() -> None:
    weight, counts = sample("normal"), importance()
    for name in CODES + GRIDS:
        with_counts = encode(weight, GGMLType[name], counts)
        without = encode(weight, GGMLType[name])
        assert relative_error(with_counts, name, weight, counts) < relative_error(
            without, name, weight, counts
        )


@pytest.mark.parametrize("name", ["Q4_K", "IQ4_XS", "IQ3_S"])
def test_same_weights_give_the_same_bytes(name: str) -> None:
    weight = sample("heavy")
    first = encode(weight, GGMLType[name], importance())
    assert torch.equal(first, encode(weight, GGMLType[name], importance()))
