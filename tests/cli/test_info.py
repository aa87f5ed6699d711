"""`csaq info` counts a file from its header, for people and as JSON."""

import json
import subprocess
import sys

import pytest

GROUPS = {"F32"}


def test_summary_names_what_a_user_wants_to_know(csaq, tiny_gguf):
    done = csaq("info", tiny_gguf)
    assert done.returncode == 0, done.stderr
    for text in ("llama", "tiny", "parameters", "bits per weight", "memory", "F32"):
        assert text in done.stdout


def test_json_has_the_documented_fields(csaq, tiny_gguf):
    report = json.loads(csaq("info", tiny_gguf, "--json").stdout)
    assert report["architecture"] == "llama"
    assert report["file_bytes"] == tiny_gguf.stat().st_size
    assert report["parameters"] == sum(share["n_weight"] for share in report["types"])
    assert report["bpw"] == pytest.approx(8 * report["file_bytes"] / report["parameters"], 1e-3)
    assert report["context_length"] == 128
    assert report["estimated_memory_bytes"] > 4 * report["parameters"]
    assert {share["type"] for share in report["types"]} == GROUPS
    assert not {"tensors", "metadata"} & report.keys()


def test_json_lists_tensors_and_metadata_on_request(csaq, tiny_gguf):
    report = json.loads(csaq("info", tiny_gguf, "--json", "--tensors", "--metadata").stdout)
    assert report["tensors"][0]["name"] == "token_embd.weight"
    assert report["tensors"][0]["shape"] == [258, 64]
    assert report["metadata"]["llama.block_count"] == 2
    assert len(report["metadata"]["tokenizer.ggml.tokens"]) == 7  # six and how many there are


def test_lists_are_printed_on_request(csaq, tiny_gguf):
    text = csaq("info", tiny_gguf, "--tensors", "--metadata").stdout
    assert "blk.1.ffn_down.weight" in text
    assert "general.architecture = llama" in text


def test_folder_with_one_gguf_will_do(csaq, tiny_gguf):
    assert csaq("info", tiny_gguf.parent).returncode == 0


@pytest.mark.parametrize("n_bytes", [0, 3, 8, 24, 100, 3000, -1])
def test_truncated_file_is_one_line_and_exit_3(csaq, tiny_gguf, tmp_path, n_bytes):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:n_bytes])
    done = csaq("info", path)
    assert done.returncode == 3
    assert done.stderr.startswith(f"csaq: {path}: ")
    assert len(done.stderr.splitlines()) <= 2


def test_needs_neither_numba_nor_torch(tiny_gguf):
    code = (
        "import sys\nfrom csaq_cli.main import cli\n"
        f"cli.main(['info', {str(tiny_gguf)!r}], standalone_mode=False)\n"
        "assert not {'numba', 'torch', 'tokenizers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_reader_that_goes_away_is_no_error(tiny_gguf):
    command = f"{sys.executable} -m csaq_cli info {tiny_gguf} --metadata --tensors | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""
