"""Presets choose, tensor by tensor, what llama-quantize chooses (answers in preset_types.json)."""

import json
from pathlib import Path

import pytest

from csaq_export.presets import ALIASES, PRESETS, find_preset
from csaq_export.type_choice import Body, Shape, choose_types, fitting
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType
from tests.export.bodies import BODIES, body_shapes, runs

ANSWERS = json.loads((Path(__file__).parent / "preset_types.json").read_text())


@pytest.mark.parametrize("name", BODIES)
def test_every_preset_gives_llama_quantizes_types(name):
    shapes = body_shapes(BODIES[name])
    body = Body(
        BODIES[name].architecture,
        BODIES[name].n_layer,
        BODIES[name].n_head // BODIES[name].n_head_kv,
    )
    assert ANSWERS[name].keys() == {p + s for p in PRESETS for s in ("", " +imatrix")}
    for label, expected in ANSWERS[name].items():
        preset = PRESETS[label.removesuffix(" +imatrix")]
        choices = choose_types(shapes, body, preset, label.endswith("+imatrix"))
        assert runs({n: choice.type.name for n, choice in choices.items()}) == expected, label


def test_a_fallback_remembers_what_was_wanted():
    shapes = [Shape("blk.0.ffn_up.weight", (64, 96)), Shape("output.weight", (10, 256))]
    choice = choose_types(shapes, Body("llama", 1, 1), PRESETS["Q4_K_S"])["blk.0.ffn_up.weight"]
    assert (choice.wanted, choice.type) == (GGMLType.Q4_K, GGMLType.Q5_0)


@pytest.mark.parametrize("wanted", {preset.type for preset in PRESETS.values()})
@pytest.mark.parametrize("n_col", [1, 31, 32, 96, 256, 300, 512])
def test_fitting_types_divide_every_row(wanted, n_col):
    assert n_col % LAYOUTS[fitting(wanted, n_col)].block_size == 0


def test_short_names_mean_the_medium_presets():
    assert {name: find_preset(name)[0] for name in ALIASES} == ALIASES
    assert find_preset("q4_k_m")[0] == "Q4_K_M"


def test_unknown_type_lists_the_known_ones():
    with pytest.raises(UsageError, match="Q7") as caught:
        find_preset("Q7")
    assert "Q4_K_M" in caught.value.hint
