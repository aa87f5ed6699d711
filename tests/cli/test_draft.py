"""`csaq draft` writes a head and says how good it is; a GGUF has none to give."""

import pytest
from click.testing import CliRunner

from csaq_cli.draft import draft
from csaq_runtime.errors import UsageError
from csaq_runtime.gguf import open_gguf
from tests.export.models import TEXT, save_folder


def run(*arguments):
    return CliRunner().invoke(draft, list(map(str, arguments)), catch_exceptions=False)


def test_a_head_is_made_beside_the_model(tmp_path):
    save_folder(tmp_path / "story", "llama", num_hidden_layers=1)
    (tmp_path / "text.txt").write_text(" ".join(TEXT))
    path = tmp_path / "story-draft.gguf"
    size = ("--nsamples", 4, "--seqlen", 16, "--steps", 2, "--quiet")
    made = run(tmp_path / "story", "--calib", tmp_path / "text.txt", *size, "-o", path)
    assert made.exit_code == 0
    assert f"{path}  {path.stat().st_size:,} bytes" in made.output
    assert "right 1, 2, 3 tokens ahead" in made.output
    with open_gguf(path) as file:
        assert file.text("general.architecture") == "csaq-draft"


def test_a_gguf_cannot_be_taught(tiny_gguf, tmp_path):
    with pytest.raises(UsageError, match="needs a Hugging Face folder"):
        run(tiny_gguf, "-o", tmp_path / "head.gguf")
