import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from csaq_cli.main import cli
from csaq_export.hf.linear import CSAQLinear
from csaq_export.packed_folder import convert_packed, is_packed
from csaq_export.pipeline import Conversion
from csaq_runtime.engine import Engine
from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import open_gguf
from tests.export.models import byte_level_tokenizer, save_folder
from tests.export.packed_models import packed_model

IDS = [5, 17, 60, 3, 250, 9]


def save(folder, kind):
    model, _ = packed_model(kind)
    model.save_pretrained(folder)
    pre = "qwen2" if kind.startswith("qwen") else "llama-bpe"
    byte_level_tokenizer(pre).save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2-tied"])
def test_rows_and_bits_are_kept_and_the_file_computes_the_same(kind, tmp_path):
    model = save(tmp_path / "packed", kind)
    out = tmp_path / "out.gguf"
    words = ["convert", str(tmp_path / "packed"), "-o", str(out)]
    done = CliRunner().invoke(cli, words, prog_name="csaq")
    assert done.exit_code == 0, done.output
    slots = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v"}  # fmt: skip
    stored = load_file(tmp_path / "packed" / "model.safetensors")
    with open_gguf(out) as file:
        for ours, ggufs in slots.items():
            linear = model.get_submodule(f"model.layers.1.{ours}")
            assert isinstance(linear, CSAQLinear)
            for tier in linear.tiers:
                name = f"blk.1.{ggufs}.weight.{tier.name}"
                assert file.tensors[name].type is tier.type
                assert np.array_equal(
                    file.data(name), stored[f"model.layers.1.{ours}.{tier.name}"].numpy()
                )
        assert file.metadata["general.architecture"] == f"csaq-{kind.removesuffix('-tied')}"
    with Engine.open(out, cache_type="f32", n_threads=1) as engine:
        found = engine.logits(IDS)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    # The runtime rounds activations to 8 bits where rows are packed.
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    q = np.exp(found - found.max(1, keepdims=True))
    p = np.exp(expected - expected.max(1, keepdims=True))
    q, p = (each / each.sum(1, keepdims=True) for each in (q, p))
    assert (p * np.log(p / q)).sum(1).mean() < 5e-3


@pytest.mark.parametrize("spoilt", ["tier", "index", "layer", "missing"])
def test_damaged_folders_are_refused_and_leave_nothing(tmp_path, spoilt):
    folder = tmp_path / "packed"
    save(folder, "llama")
    name = "model.layers.0.mlp.up_proj"
    tensors = load_file(folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    if spoilt == "tier":
        tensors[f"{name}.b8"] = tensors[f"{name}.b8"][:, :-1].contiguous()
    elif spoilt == "index":
        tensors[f"{name}.rows"][0] = tensors[f"{name}.rows"][1]
    elif spoilt == "missing":
        del tensors[f"{name}.b4"]
    else:
        layers = values["quantization_config"]["layers"]
        layers["model.layers.9.mlp.up_proj"] = layers[name]
        name = "layers"
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=name):
        convert_packed(Conversion(str(folder), tmp_path / "out.gguf", ""))
    assert [p.name for p in tmp_path.iterdir()] == ["packed"]


def test_other_folders_are_not_taken_for_packed(tmp_path):
    save_folder(tmp_path, "llama")
    assert not is_packed(str(tmp_path))
    assert not is_packed(str(tmp_path / "none"))
