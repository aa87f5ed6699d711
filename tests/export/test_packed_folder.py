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
from tests.export.models import save_folder
from tests.export.packed_models import save_packed

IDS = [5, 17, 60, 3, 250, 9]


@pytest.mark.parametrize("kind", ["llama", "qwen2-tied"])
def test_rows_and_bits_are_kept_and_the_file_computes_the_same(kind, tmp_path):
    model = save_packed(tmp_path / "packed", kind)
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


def write_manifest(folder, model, **spoilt):
    """Pairs of neighbours in a tier as cliques, in every layer."""
    budget = {}
    for name, linear in model.named_modules():
        if isinstance(linear, CSAQLinear):
            parts = [(tier.bits, rows.tolist()) for tier, _, rows in linear.qweight.parts()]
            budget[name] = [
                {"rows": rows[at : at + 2], "bits": bits, "salience": 1.0}
                for bits, rows in parts
                for at in range(0, len(rows), 2)
            ]
    (folder / "csaq_manifest.json").write_text(json.dumps({"budget": budget | spoilt}))
    return budget


def test_cliques_of_the_manifest_are_keys_of_the_file(tmp_path):
    folder = tmp_path / "packed"
    model = save_packed(folder, "llama")
    budget = write_manifest(folder, model)
    out = tmp_path / "out.gguf"
    convert_packed(Conversion(str(folder), out, ""))
    with open_gguf(out) as file:
        labels = file.metadata["csaq.clique.blk.1.attn_q.weight"]
        up = file.metadata["csaq.clique.blk.1.ffn_up.weight"]
        assert file.text("csaq.csaq.bits") == "2,4,8,16"
    # Of 64 rows in heads of 16: in a GGUF the members of a rotary pair are neighbours.
    order = np.arange(64).reshape(4, 2, 8).swapaxes(1, 2).reshape(-1)
    for name, found, places in (
        ("self_attn.q_proj", labels, order),
        ("mlp.up_proj", up, np.arange(96)),
    ):
        pairs = [c["rows"] for c in budget[f"model.layers.1.{name}"]]
        for rows in pairs:
            here = set(found[np.isin(places, rows)].tolist())
            assert len(here) == 1
            assert (here == {-1}) == (len(rows) == 1)
        assert len(set(found.tolist()) - {-1}) == sum(len(rows) == 2 for rows in pairs)


@pytest.mark.parametrize(
    ("cliques", "message"),
    [
        ([], "not every row"),
        ([{"rows": [0, 1], "bits": 99}], "clique of 99 bits"),
        ([{"rows": [0, 96], "bits": 4}], "not a list of cliques of its 96 rows"),
        ([7], "not a list of cliques"),
    ],
)
def test_a_manifest_of_another_model_is_refused(tmp_path, cliques, message):
    folder = tmp_path / "packed"
    model = save_packed(folder, "llama")
    write_manifest(folder, model, **{"model.layers.0.mlp.up_proj": cliques})
    with pytest.raises(ModelError, match=f"mlp.up_proj.*{message}"):
        convert_packed(Conversion(str(folder), tmp_path / "out.gguf", ""))


@pytest.mark.parametrize("spoilt", ["tier", "index", "layer", "missing"])
def test_damaged_folders_are_refused_and_leave_nothing(tmp_path, spoilt):
    folder = tmp_path / "packed"
    save_packed(folder, "llama")
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
