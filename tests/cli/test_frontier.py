"""`csaq frontier` from the command line: table, page and JSON; mistakes found before work."""

import json

import pytest

from tests.export.models import TEXT, save_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    path = tmp_path_factory.mktemp("frontier")
    save_folder(path / "model", "qwen2-tied")
    (path / "text.txt").write_text(" ".join(TEXT))
    return path


def test_page_table_and_json_come_out(csaq, home, tmp_path):
    out = tmp_path / "out.html"
    done = csaq(
        "frontier", home / "model", "--text", home / "text.txt", "--presets", "Q4_0,Q8_0",
        "-c", 32, "--chunks", 2, "-o", out, "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(out)
    assert "Q8_0" in done.stdout
    assert "<svg" in out.read_text()
    files = json.loads(out.with_suffix(".json").read_text())["files"]
    assert [file["preset"] for file in files] == ["Q4_0", "Q8_0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "out.json"]


@pytest.mark.parametrize(
    "wrong", [("--presets", "Q4_0,nonsense"), ("-o", "missing/x.html"), ("--peer", "missing")]
)
def test_mistakes_are_usage_errors(csaq, home, tmp_path, wrong):
    usual = ("--text", home / "text.txt", "-c", 32, "-o", tmp_path / "x.html", "--presets", "Q4_0")
    done = csaq("frontier", home / "model", *usual, *wrong)
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
