"""`csaq convert` to a size as a process: the file, what is said about it, and refusals."""

import re
from math import prod
from pathlib import Path

import pytest

from csaq_runtime.gguf import open_gguf
from tests.export.models import TEXT, save_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-model")
    save_folder(path, "qwen2")
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


def test_size_is_kept_and_the_allocation_shown(csaq, folder, tmp_path):
    out = tmp_path / "small.gguf"
    done = csaq("convert", folder, "--bpw", "8", "--calib", folder / "calib.txt", "--nsamples", "8",
                "--seqlen", "16", "--effort", "fast", "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    assert "backward: " in done.stderr
    assert "blk.2" in done.stderr
    with open_gguf(out) as file:
        n_weight = sum(prod(tensor.shape) for tensor in file.tensors.values())
        assert file.text("csaq.layout") == "stock"
        assert file.number("csaq.target_bpw") == 8
        keys = {key for key in file.metadata if key.startswith("csaq.")}
    of_rows = {key for key in keys_in_the_docs() if re.match(r"csaq\.(csaq|actual)", key)}
    assert keys | of_rows | {"csaq.clique.TENSOR"} == keys_in_the_docs()
    assert out.stat().st_size <= n_weight


def test_a_gguf_is_brought_to_a_size_by_its_weights(csaq, folder, tmp_path):
    source, out = tmp_path / "f16.gguf", tmp_path / "small.gguf"
    assert csaq("convert", folder, "--type", "F16", "-o", source, "-q").returncode == 0
    done = csaq("convert", source, "--bpw", "8", "--tensor-type", "ffn_=q5_0", "-o", out)
    assert done.returncode == 0, done.stderr
    assert "note: no --calib" in done.stderr
    with open_gguf(out) as file:
        assert file.tensors["blk.0.ffn_up.weight"].type.name == "Q5_0"
        assert file.number("csaq.target_bpw") == 8


def keys_in_the_docs():
    """The keys in the tables of docs/format.md."""
    page = Path(__file__).resolve().parents[2] / "docs" / "format.md"
    return set(re.findall(r"^\| `(csaq\.[\w.]+)", page.read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bpw", "99"), "not a number of bits"),
        (("--bpw", "4", "--like", "Q4_0", "--calib", "x.txt"), "one of --bpw, --size and --like"),
        (("--size", "huge", "--calib", "x.txt"), "'huge' is not a size"),
        (("--bpw", "4", "--calib", "{calib}", "--tensor-type", "x"), "not REGEX=TYPE"),
        (("--bpw", "4", "--calib", "{calib}", "--floor", "Q4_K_M"), "a type such as Q4_K"),
    ],
)
def test_wrong_requests_exit_with_2_and_one_line(csaq, folder, tmp_path, arguments, message):
    filled = [argument.format(calib=folder / "calib.txt") for argument in arguments]
    done = csaq("convert", folder, *filled, "-o", tmp_path / "out.gguf")
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out.gguf").exists()
