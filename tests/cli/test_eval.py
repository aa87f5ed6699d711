"""`csaq eval` prints a table or JSON, and refuses what cannot be compared."""

import json
from pathlib import Path

import pytest

STORIES = Path(__file__).resolve().parents[2] / "demo" / "stories.txt"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(STORIES.read_text()[:1200])
    return path


def test_table_has_perplexity_alone_without_a_baseline(csaq, tiny_gguf, text):
    done = csaq("eval", tiny_gguf, "--text", text, "-c", 64, "--chunks", 2)
    assert done.returncode == 0, done.stderr
    assert "tiny.gguf" in done.stdout
    assert "perplexity" in done.stdout
    assert "divergence" not in done.stdout


def test_json_has_the_documented_fields(csaq, tiny_gguf, text):
    done = csaq("eval", tiny_gguf, "--text", text, "-c", 64, "--baseline", tiny_gguf, "--json")
    report = json.loads(done.stdout)
    (file,) = report["files"]
    assert report["n_ctx"] == 64
    assert file["n_token"] == 31 * report["n_chunk"]
    assert file["file_bytes"] == tiny_gguf.stat().st_size
    assert file["perplexity"]["value"] > 1
    assert file["divergence"].keys() == {"mean", "median", "p99", "maximum", "same_top"}
    assert file["divergence"]["maximum"] == 0.0


def test_table_shows_divergence_from_the_baseline(csaq, tiny_gguf, text):
    done = csaq("eval", tiny_gguf, "--text", text, "-c", 64, "--baseline", tiny_gguf, "-q")
    assert "0.000000 ± 0.000000" in done.stdout
    assert "100.00 ± 0.00 %" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("content", [b"too short", b"\xff\xfe not UTF-8"])
def test_unfit_texts_are_one_line_and_exit_2(csaq, tiny_gguf, tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    done = csaq("eval", tiny_gguf, "--text", path)
    assert done.returncode == 2
    assert done.stderr.startswith("csaq: ")


def test_never_imports_torch(tiny_gguf, text):
    import subprocess
    import sys

    code = (
        "import sys\nfrom csaq_cli.main import cli\n"
        f"cli.main(['eval', {str(tiny_gguf)!r}, '--text', {str(text)!r}, '-c', '64'],"
        " standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'csaq_export'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
