"""Default names follow GGUF's naming convention."""

import pytest

from csaq_cli.out_name import default_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B-Q4_K_M.gguf"),
        ("models/My Model (v2)", "My-Model-v2-Q4_K_M.gguf"),
        ("/", "model-Q4_K_M.gguf"),
    ],
)
def test_name_is_the_model_s_with_the_type_behind_it(source, name):
    assert default_name(source, "Q4_K_M") == name


def test_dot_is_the_folder_it_stands_for(tmp_path, monkeypatch):
    (tmp_path / "Tiny-1B").mkdir()
    monkeypatch.chdir(tmp_path / "Tiny-1B")
    assert default_name(".", "F16") == "Tiny-1B-F16.gguf"


@pytest.mark.parametrize("old", ["BF16", "f16", "F32", "Q8_0", "Q4_K_M", "IQ4_XS"])
def test_type_of_a_gguf_is_replaced(tmp_path, old):
    source = tmp_path / f"Tiny-1B-{old}.gguf"
    source.touch()
    assert default_name(str(source), "Q2_K") == "Tiny-1B-Q2_K.gguf"
