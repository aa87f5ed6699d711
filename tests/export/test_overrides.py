"""`REGEX=TYPE` fixes types as llama-quantize does, and what cannot be meant is refused."""

import pytest

from csaq_export.overrides import overridden, read_override
from csaq_export.pipeline import Conversion, convert
from csaq_export.plan import plan_model
from csaq_export.source import open_model
from csaq_runtime.errors import UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.models import save_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-model")
    save_folder(path, "llama")
    return path


def types(folder, *texts):
    with open_model(str(folder)) as model:
        plan = overridden(model, plan_model(model, "Q8_0"), [read_override(t) for t in texts])
        return {tensor.name: tensor.type for tensor in plan.tensors}


def test_pattern_is_searched_in_names_and_the_first_match_wins(folder):
    found = types(folder, r"blk\.[01]\.ffn_up=q4_0", "ffn_=F16")
    assert found["blk.0.ffn_up.weight"] == found["blk.1.ffn_up.weight"] == GGMLType.Q4_0
    assert found["blk.2.ffn_up.weight"] == found["blk.0.ffn_down.weight"] == GGMLType.F16
    assert found["blk.0.attn_q.weight"] == GGMLType.Q8_0


def test_norms_are_not_meant(folder):
    found = types(folder, ".*=Q4_0")
    assert found["blk.0.attn_norm.weight"] == GGMLType.F32
    assert found["token_embd.weight"] == GGMLType.Q4_0


def test_a_pattern_may_hold_an_equals_sign(folder):
    assert types(folder, "(?=blk.0)=Q4_0")["blk.0.attn_q.weight"] == GGMLType.Q4_0


def test_written_file_has_the_types_and_the_planned_size(folder, tmp_path):
    out = tmp_path / "out.gguf"
    plan = convert(Conversion(str(folder), out, "Q8_0", overrides=(read_override("ffn_=Q5_1"),)))
    assert out.stat().st_size == plan.n_bytes
    with open_gguf(out) as file:
        assert file.tensors["blk.1.ffn_gate.weight"].type == GGMLType.Q5_1
        assert file.tensors["blk.1.attn_k.weight"].type == GGMLType.Q8_0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ffn_up", "not REGEX=TYPE"),
        ("ffn_up=Q4_K_M", "a type such as Q4_K|unknown type 'Q4_K_M'"),
        ("(=Q4_0", "not a regular expression"),
        ("nothing=Q4_0", "no such matrix"),
        ("attn_norm=Q4_0", "no such matrix"),
        ("ffn_up=Q4_K", "cannot be Q4_K"),
        ("ffn_up=IQ1_S", "cannot be IQ1_S"),
    ],
)
def test_what_cannot_be_meant_is_refused(folder, text, message):
    with pytest.raises(UsageError, match=message):
        types(folder, text)
