"""The Python of docs/python-api.md runs from top to bottom, on a tiny model."""

import re
from pathlib import Path

import torch

import csaq_export
from csaq_export import CSAQConfig
from tests.export.models import TEXT, build_model, byte_level_tokenizer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = build_model("llama", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    model.save_pretrained("my-model")
    byte_level_tokenizer("llama-bpe").save_pretrained("my-model")
    Path("my.txt").write_text("\n\n".join(TEXT))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        # 64 windows of 128 tokens are for real models.
        exec(block.replace("n=64, seq_len=128", "n=2, seq_len=32"), names)
    output = capsys.readouterr().out
    assert re.search(r"^3\.\d+|4\.000 bits per weight", output)
    assert "speedup_factor" in output


def test_the_page_names_every_setting_and_every_public_name():
    text = PAGE.read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    own = {"quant_method", "layers"}
    assert rows == set(CSAQConfig.__dataclass_fields__) - own
    unnamed = {name for name in csaq_export.__all__ if name not in text}
    assert unnamed <= {"QuantizedWeight", "SpeculativeReport"}


def test_every_public_name_is_there():
    for name in csaq_export.__all__:
        assert callable(getattr(csaq_export, name)), name
    assert torch.nn.Module in csaq_export.CSAQLinear.__mro__
