"""Whole conversions: exact sizes, equal bytes, nothing half-written, bad weights refused."""

import json
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from csaq_export import pipeline
from csaq_export.pipeline import Conversion, Progress, convert, plan
from csaq_runtime.errors import ModelError, ResourceError, UsageError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import open_gguf
from tests.export.models import CONFIGS, save_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "tiny"
    save_folder(path, "llama3-tied", torch.bfloat16)
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_dry_run_knows_the_exact_size(tmp_path, kind):
    save_folder(tmp_path / "model", kind)
    for name in ("F16", "Q8_0"):
        conversion = Conversion(str(tmp_path / "model"), tmp_path / f"{name}.gguf", name)
        promised = plan(conversion)
        assert not conversion.out.exists()
        written = convert(conversion)
        assert promised.n_bytes == written.n_bytes == conversion.out.stat().st_size


def test_same_source_gives_the_same_bytes(tmp_path, folder):
    for out in ("a.gguf", "b.gguf"):
        convert(Conversion(str(folder), tmp_path / out, "Q5_1"))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_bf16_source_is_stored_unchanged(tmp_path, folder):
    convert(Conversion(str(folder), tmp_path / "out.gguf", "BF16"))
    source = load_file(folder / "model.safetensors")
    with open_gguf(tmp_path / "out.gguf") as file:
        up = source["model.layers.2.mlp.up_proj.weight"]
        assert file.tensors["blk.2.ffn_up.weight"].type == GGMLType.BF16
        assert np.array_equal(file.data("blk.2.ffn_up.weight"), up.view(torch.uint8).numpy())
        norm = source["model.norm.weight"].float().numpy()
        assert np.array_equal(file.float32("output_norm.weight"), norm)


def test_float_types_round_as_gguf_py_does(tmp_path):
    save_folder(tmp_path / "model", "qwen2")
    source = load_file(tmp_path / "model" / "model.safetensors")
    values = source["model.layers.0.mlp.down_proj.weight"].numpy()
    for name in ("F16", "BF16", "Q8_0"):
        convert(Conversion(str(tmp_path / "model"), tmp_path / f"{name}.gguf", name))
        expected = gguf.quantize(values, gguf.GGMLQuantizationType[name])
        with open_gguf(tmp_path / f"{name}.gguf") as file:
            assert np.array_equal(file.data("blk.0.ffn_down.weight"), expected.view(np.uint8))


@pytest.mark.parametrize("first", ["F32", "BF16"])
def test_gguf_as_source_gives_what_the_folder_gives(tmp_path, folder, first):
    convert(Conversion(str(folder), tmp_path / "first.gguf", first))
    convert(Conversion(str(tmp_path / "first.gguf"), tmp_path / "second.gguf", "Q4_1"))
    convert(Conversion(str(folder), tmp_path / "direct.gguf", "Q4_1"))
    with open_gguf(tmp_path / "second.gguf") as a, open_gguf(tmp_path / "direct.gguf") as b:
        assert a.metadata.keys() == b.metadata.keys()
        for key, value in b.metadata.items():
            assert np.array_equal(np.asarray(a.metadata[key]), np.asarray(value)), key
        assert list(a.tensors) == list(b.tensors)
        assert all(np.array_equal(a.data(name), b.data(name)) for name in b.tensors)


def test_quantized_gguf_as_source_is_noted(tmp_path, folder):
    convert(Conversion(str(folder), tmp_path / "q8.gguf", "Q8_0"))
    again = convert(Conversion(str(tmp_path / "q8.gguf"), tmp_path / "q4.gguf", "Q4_0"))
    assert any("already quantized (Q8_0)" in note for note in again.notes)


def test_awkward_rows_fall_back_and_say_so(folder):
    notes = plan(Conversion(str(folder), Path("x.gguf"), "Q4_K_M")).notes
    assert any("rows of 64 weights cannot be Q4_K, stored as Q5_0" in note for note in notes)


def test_progress_names_each_tensor_and_ends_below_the_total(tmp_path, folder):
    seen: list[Progress] = []
    done = convert(Conversion(str(folder), tmp_path / "out.gguf", "F16"), seen.append)
    assert [p.tensor.name for p in seen] == [tensor.name for tensor in done.tensors]
    assert all(a.done_bytes < b.done_bytes for a, b in pairwise(seen))
    assert {p.total_bytes for p in seen} == {done.n_bytes}


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ModelError("bad"), OSError(28, "full")])
def test_interrupted_write_leaves_nothing(tmp_path, folder, failure):
    def stop(progress: Progress) -> None:
        if progress.done_bytes > progress.total_bytes // 2:
            raise failure

    out = tmp_path / "out" / "model.gguf"
    out.parent.mkdir()
    expected = ResourceError if isinstance(failure, OSError) else failure
    with pytest.raises(expected if isinstance(expected, type) else type(expected)):
        convert(Conversion(str(folder), out, "F16"), stop)
    assert list(out.parent.iterdir()) == []


def test_existing_file_survives_a_failed_overwrite(tmp_path, folder):
    out = tmp_path / "model.gguf"
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists already"):
        convert(Conversion(str(folder), out, "F16"))
    with pytest.raises(ZeroDivisionError):
        convert(Conversion(str(folder), out, "F16", force=True), lambda progress: 1 // 0)
    assert out.read_bytes() == b"mine"
    convert(Conversion(str(folder), out, "F16", force=True))
    assert out.read_bytes().startswith(b"GGUF")


def test_full_disk_is_noticed_before_work_begins(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(
        "csaq_export.write_gguf.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})
    )
    monkeypatch.setattr(pipeline, "packed_rows", lambda tensor: pytest.fail("began to work"))
    with pytest.raises(ResourceError, match="the disk has 1,000 left"):
        convert(Conversion(str(folder), tmp_path / "out.gguf", "F16"))


def test_missing_output_folder_is_a_usage_error(tmp_path, folder):
    with pytest.raises(UsageError, match="no such folder"):
        convert(Conversion(str(folder), tmp_path / "none" / "out.gguf", "F16"))


@pytest.mark.parametrize(
    ("value", "name", "message"),
    [
        (float("nan"), "Q8_0", r"blk.1.attn_q.weight: contains NaN or infinite"),
        (float("inf"), "F32", r"blk.1.attn_q.weight: contains NaN or infinite"),
        (1e6, "F16", r"blk.1.attn_q.weight: .*does not fit F16"),
    ],
)
def test_unfit_weights_are_refused_by_name(tmp_path, value, name, message):
    save_folder(tmp_path / "model", "llama")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    save_file(tensors, path)
    with pytest.raises(ModelError, match=message):
        convert(Conversion(str(path.parent), tmp_path / "out.gguf", name))
    assert not list(tmp_path.glob("out*"))


def test_two_bits_without_importance_are_refused(folder):
    with pytest.raises(UsageError, match="Q2_K_S"):
        plan(Conversion(str(folder), Path("x.gguf"), "Q2_K_S"))


def test_gguf_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_tensor("x", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="mamba"):
        plan(Conversion(str(path), tmp_path / "out.gguf", "F16"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "llama.block_count: required key is missing"),
        ({"block_count": 0, "attention.head_count": 4}, "block_count: 0"),
        ({"block_count": 1, "attention.head_count": 4, "attention.head_count_kv": 0}, "_kv: 0"),
        ({"block_count": 1, "attention.head_count": 4}, None),
    ],
)
def test_sizes_in_a_gguf_source_are_checked(tmp_path, keys, message):
    path = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_tensor("blk.0.attn_v.weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    conversion = Conversion(str(path), tmp_path / "out.gguf", "Q4_0")
    if message is None:  # older files leave it out where all heads have their own keys
        assert plan(conversion).metadata["llama.attention.head_count_kv"].value == 4
        return
    with pytest.raises(ModelError, match=message):
        plan(conversion)


def test_card_and_generation_settings_reach_the_file(tmp_path):
    save_folder(tmp_path / "Tiny-Chat-1B", "llama")
    folder = tmp_path / "Tiny-Chat-1B"
    (folder / "README.md").write_text("---\nlicense: mit\nlanguage: [en]\nbase_model: a/B\n---\n")
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_k": 20}))
    metadata = plan(Conversion(str(folder), tmp_path / "x.gguf", "Q8_0")).metadata
    values = {key: field.value for key, field in metadata.items() if key.startswith("general.")}
    assert values["general.license"] == "mit"
    assert values["general.languages"] == ["en"]
    assert values["general.base_model.0.repo_url"] == "https://huggingface.co/a/B"
    assert values["general.sampling.temp"] == 0.6
    assert values["general.sampling.top_k"] == 20
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ModelError, match="model card does not parse"):
        plan(Conversion(str(folder), tmp_path / "x.gguf", "Q8_0"))
