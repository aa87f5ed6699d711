"""Without text a size is filled by raising a preset's types, never lowering one."""

import pytest

from csaq_export.budget.target import Target
from csaq_export.overrides import read_override
from csaq_export.pipeline import Conversion, convert
from csaq_export.plan import plan_model
from csaq_export.sized import convert_sized, plan_sized
from csaq_export.source import open_model
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import LAYOUTS, GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.models import save_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An F16 GGUF, which torch cannot run."""
    home = tmp_path_factory.mktemp("sized")
    save_folder(home / "model", "llama")
    convert(Conversion(str(home / "model"), home / "f16.gguf", "F16"))
    return home / "f16.gguf"


def sized(source, out, target, *overrides):
    fixed = tuple(read_override(text) for text in overrides)
    conversion = Conversion(str(source), out, "Q4_K_M", force=True, overrides=fixed)
    return convert_sized(conversion, target, lambda progress: None)


def test_no_matrix_is_smaller_than_in_the_largest_preset_that_fits(source, tmp_path):
    plan = sized(source, tmp_path / "out.gguf", Target(bpw=8.0))
    assert (tmp_path / "out.gguf").stat().st_size == plan.n_bytes <= plan.n_weight
    with open_model(str(source)) as model:
        preset = plan_model(model, "Q4_0")
    smaller = {t.name: LAYOUTS[t.type].bpw for t in preset.tensors}
    larger = {t.name: LAYOUTS[t.type].bpw for t in plan.tensors}
    assert all(larger[name] >= bits for name, bits in smaller.items())
    assert sum(larger.values()) > sum(smaller.values())


def test_metadata_says_how_types_were_chosen(source, tmp_path):
    plan = sized(source, tmp_path / "out.gguf", Target(bpw=8.0))
    assert "no --calib" in plan.notes[-1]
    with open_gguf(tmp_path / "out.gguf") as file:
        assert file.text("csaq.method") == "weights"
        assert file.number("csaq.target_bpw") == 8.0


def test_like_a_preset_is_the_preset_where_nothing_fits_beside_it(source, tmp_path):
    preset = convert(Conversion(str(source), tmp_path / "preset.gguf", "Q5_0"))
    plan = sized(source, tmp_path / "out.gguf", Target(like="Q5_0"))
    assert [t.type for t in plan.tensors] == [t.type for t in preset.tensors]
    assert (tmp_path / "out.gguf").read_bytes() == (tmp_path / "preset.gguf").read_bytes()


def test_overrides_bind(source, tmp_path):
    plan = sized(source, tmp_path / "out.gguf", Target(bpw=9.0), "attn_k=Q4_0")
    assert {t.type for t in plan.tensors if "attn_k" in t.name} == {GGMLType.Q4_0}


def test_too_small_a_size_is_refused_with_a_way_out(source, tmp_path):
    conversion = Conversion(str(source), tmp_path / "out.gguf", "Q4_K_M")
    with pytest.raises(UsageError, match="too few") as caught:
        plan_sized(conversion, Target(bpw=2.0))
    assert "--calib" in caught.value.hint
