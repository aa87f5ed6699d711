"""`csaq calibrate` writes the imatrix of what it saw, and refuses to do nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from csaq_export.calibration import read_calibration
from csaq_export.guidance import HELD_SHARE
from csaq_export.imatrix import read_imatrix
from csaq_export.torch_model import load_tokenizer, load_torch_model
from tests.export.models import TEXT, save_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, csaq):
    home = tmp_path_factory.mktemp("calibrate")
    save_folder(home / "model", "qwen2")
    (home / "text.txt").write_text(" ".join(TEXT))
    done = csaq(
        "calibrate", home / "model", "--calib", home / "text.txt", "--imatrix", home / "im.gguf",
        "--work-dir", home / "work", "--report", home / "report.html", "--nsamples", 8,
        "--seqlen", 32, "--device", "cpu",
        "--elements", "blk.1.attn_k.weight", home / "attn_k.safetensors",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = ("im.gguf", "report.html", "attn_k.safetensors")
    assert done.stdout == "".join(f"{home / name}\n" for name in names)
    return home


def test_imatrix_holds_the_sums_a_hook_sees(made):
    model = load_torch_model(made / "model").model
    tokenizer = load_tokenizer(made / "model")
    windows = read_calibration(str(made / "text.txt"), tokenizer, 8, 32, 0).tokens
    seen = windows[: len(windows) - max(1, len(windows) // HELD_SHARE)]
    inputs = {}
    layer = model.model.layers[1]
    for name, linear in (("attn_k", layer.self_attn.k_proj), ("ffn_down", layer.mlp.down_proj)):
        linear.register_forward_pre_hook(
            lambda module, args, name=name: inputs.update({name: args[0].flatten(0, 1)})
        )
    with torch.no_grad():
        model(seen)
    found = read_imatrix(made / "im.gguf")
    for name, x in inputs.items():
        entry = found.entries[f"blk.1.{name}.weight"]
        assert entry.count == seen.numel()
        assert np.allclose(entry.sums, x.square().sum(0).numpy(), rtol=1e-4)


def test_imatrix_has_every_matrix_and_says_what_it_is_made_from(made):
    found = read_imatrix(made / "im.gguf")
    assert len(found.entries) == 3 * 7 + 1
    assert found.entries["output.weight"].means().min() >= 0
    assert found.datasets == ("text.txt",)
    assert (found.chunk_count, found.chunk_size) == (7, 32)


def test_elements_are_those_whose_sums_the_statistics_hold(made):
    found = load_file(made / "attn_k.safetensors")["blk.1.attn_k.weight"]
    with safe_open(made / "work" / "statistics-layer-1.safetensors", "pt") as file:
        rows, columns, n_batch = (
            file.get_tensor(f"self_attn.k_proj/{field}")
            for field in ("salience_rows", "salience_columns", "n_batch")
        )
    torch.testing.assert_close(found.sum(0), columns / n_batch.float(), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.sum(1), rows / n_batch.float(), rtol=1e-3, atol=1e-6)


def test_elements_of_no_matrix_are_refused(made, csaq, tmp_path):
    out = tmp_path / "x.safetensors"
    done = csaq(
        "calibrate", made / "model", "--calib", made / "text.txt", "--work-dir", made / "work",
        "--nsamples", 8, "--seqlen", 32, "--device", "cpu", "--elements", "blk.1.nothing", out,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no such matrix" in done.stderr
    assert not out.exists()


def test_statistics_are_kept_in_the_work_dir(made):
    assert (made / "work" / "statistics-layer-0.safetensors").exists()


def test_existing_imatrix_is_kept(made, csaq):
    before = (made / "im.gguf").read_bytes()
    done = csaq("calibrate", made / "model", "--calib", "x", "--imatrix", made / "im.gguf")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert (made / "im.gguf").read_bytes() == before


def test_asking_for_nothing_is_a_usage_error(csaq):
    done = csaq("calibrate", "model", "--calib", "text.txt")
    assert done.returncode == 2
    assert "--imatrix" in done.stderr


def test_a_gguf_cannot_be_calibrated(csaq, tiny_gguf, tmp_path):
    done = csaq("calibrate", tiny_gguf, "--calib", "x", "--imatrix", tmp_path / "im.gguf")
    assert done.returncode == 2
    assert "Hugging Face folder" in done.stderr


def test_convert_takes_the_imatrix(made, csaq, tmp_path):
    out = tmp_path / "out.gguf"
    command = ("convert", made / "model", "--type", "IQ2_XS", "-o", out)
    assert csaq(*command).returncode == 2
    done = csaq(*command, "--imatrix", made / "im.gguf", "-q")
    assert done.returncode == 0, done.stderr
    metadata = csaq("info", out, "--metadata").stdout
    assert "quantize.imatrix.file = im.gguf" in metadata
    assert "quantize.imatrix.entries_count = 22" in metadata


def test_convert_takes_no_two_opinions(made, csaq):
    both = ("--imatrix", made / "im.gguf", "--calib", made / "text.txt")
    done = csaq("convert", made / "model", "-o", made / "out.gguf", *both)
    assert done.returncode == 2
    assert "--imatrix" in done.stderr


def test_report_shows_salience_and_cliques_of_every_layer_s_matrices(made):
    figures = json.loads((made / "report.json").read_text())
    assert len(figures["salience"]) == len(figures["clique_sizes"]) == 3 * 7
    assert min(figures["salience"].values()) > 0
    sizes = figures["clique_sizes"]["blk.0.ffn_up.weight"]
    for histogram in sizes.values():
        assert sum(int(size) * n for size, n in histogram.items()) == 96
    assert (made / "report.html").read_text().count("<rect") == 3 * 7
