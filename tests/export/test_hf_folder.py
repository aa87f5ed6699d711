"""Folders: sharded ones are read whole; damaged, quantized or unknown ones refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from csaq_export.hf_folder import find_tensors, open_folder, rotary_order
from csaq_export.pipeline import Conversion, convert
from csaq_export.source import open_model
from csaq_runtime.errors import ModelError, UsageError
from tests.export.models import build_model, byte_level_tokenizer, save_folder


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny-model"
    save_folder(path, "llama")
    return path


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_sharded_folder_gives_the_same_file(tmp_path, folder):
    sharded = tmp_path / "sharded" / "tiny-model"
    model = build_model("llama")
    model.save_pretrained(sharded, max_shard_size="100KB")
    byte_level_tokenizer("llama-bpe").save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for source, out in ((folder, "a.gguf"), (sharded, "b.gguf")):
        convert(Conversion(str(source), tmp_path / out, "F32"))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    next(sharded.glob("*2-of*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"model-00002.*shard is missing"):
        find_tensors(sharded)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map"),
        ({"weight_map": {"a": 1}}, "weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "outside the folder"),
        ({"weight_map": {"a": "model.safetensors"}}, "a is not in model.safetensors"),
    ],
)
def test_hostile_index_is_refused(folder, index, message):
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=message):
        find_tensors(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        find_tensors(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({"architectures": None}, "architecture None"),
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized .gptq"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "model.layers.3.* is missing"),
        ({"num_hidden_layers": 2}, "model.layers.2.*: no place"),
        ({"num_attention_heads": 3}, "heads cannot share"),
        ({"head_dim": 15}, "odd"),
        ({"hidden_size": 32}, r"shape \[320, 64\], config.json asks for \[320, 32\]"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": -1}, "rms_norm_eps"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"bos_token_id": 5000}, None),
        ({"pad_token_id": 5000}, "pad_token_id 5000 is beyond"),
    ],
)
def test_configurations_are_checked(folder, changes, message):
    change_config(folder, **changes)
    if message is None:  # tokenizer_config.json names the token, so the number is not asked
        assert open_folder(folder, "x").metadata["tokenizer.ggml.bos_token_id"].value == 0
        return
    with pytest.raises(ModelError, match=message):
        open_folder(folder, "x")


def test_fp8_weights_are_refused_by_name(folder):
    def to_fp8(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)

    change_tensors(folder, to_fp8)
    with pytest.raises(ModelError, match=r"up_proj.weight: dtype F8_E4M3 is not supported"):
        open_folder(folder, "x")


def test_recomputed_buffers_of_old_checkpoints_are_ignored(folder):
    change_tensors(
        folder,
        lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}),
    )
    assert len(open_folder(folder, "x").weights) == 30


def test_tied_output_matrix_is_left_out_with_a_note(tmp_path):
    save_folder(tmp_path, "qwen2-tied")
    change_tensors(
        tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    )
    model = open_folder(tmp_path, "x")
    assert "output.weight" not in {weight.name for weight in model.weights}
    assert any("lm_head.weight" in note for note in model.notes)


def test_llama3_scaling_outside_llama_is_refused(tmp_path):
    save_folder(tmp_path, "qwen2")
    change_config(tmp_path, rope_parameters={"rope_type": "llama3", "factor": 8.0})
    with pytest.raises(ModelError, match="llama3 rope scaling"):
        open_folder(tmp_path, "x")


def test_rotary_order_pairs_the_halves_of_each_head():
    assert rotary_order(8, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_name_that_is_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match="no such folder"), open_model("no/such/model"):
        raise AssertionError("opened")


def test_a_revision_of_a_local_folder_is_a_usage_error(folder):
    with pytest.raises(UsageError, match="has no revision 'v2'"):
        open_model(str(folder), "v2").__enter__()


def test_a_hub_failure_is_one_line(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("offline\nwith details")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ModelError, match=r"^org/name: cannot be fetched: offline$"):
        open_model("org/name").__enter__()


def test_a_hub_name_is_fetched_without_code_and_named_after_it(folder, monkeypatch):
    asked = {}

    def fetch(name, **options):
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with open_model("org/Tiny-Model-1B", "v2") as model:
        assert model.metadata["general.name"].value == "Tiny Model 1B"
    assert (asked["name"], asked["revision"]) == ("org/Tiny-Model-1B", "v2")
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow_patterns"])
