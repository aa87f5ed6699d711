"""`csaq convert` as a process: plan, write, refuse."""

import json
import subprocess
import sys

import pytest

from csaq_runtime.gguf import open_gguf


def test_dry_run_lists_every_tensor_and_writes_nothing(csaq, tiny_gguf, tmp_path):
    out = tmp_path / "out.gguf"
    done = csaq("convert", tiny_gguf, "--type", "Q8_0", "-o", out, "--dry-run")
    assert done.returncode == 0, done.stderr
    with open_gguf(tiny_gguf) as file:
        assert all(name in done.stdout for name in file.tensors)
    assert "bits per weight" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_knows_the_exact_size_of_the_file(csaq, tiny_gguf, tmp_path):
    out = tmp_path / "out.gguf"
    arguments = ("convert", tiny_gguf, "--to", "gguf", "--type", "Q8_0", "-o", out, "--json")
    planned = json.loads(csaq(*arguments, "--dry-run").stdout)
    estimate = planned.pop("estimate")
    assert estimate["disk_bytes"] == planned["file_bytes"]
    assert [stage["name"] for stage in estimate["stages"]] == ["convert"]
    written = json.loads(csaq(*arguments).stdout)
    assert planned == written
    assert planned["file_bytes"] == out.stat().st_size
    with open_gguf(out) as file:
        types = {name: tensor.type.name for name, tensor in file.tensors.items()}
    assert types == {tensor["name"]: tensor["type"] for tensor in planned["tensors"]}


def test_path_goes_to_stdout_progress_and_notes_to_stderr(csaq, tiny_gguf, tmp_path):
    out = tmp_path / "out.gguf"
    done = csaq("convert", tiny_gguf, "--type", "q4_k_m", "-o", out)
    assert done.stdout == f"{out}\n"
    assert " % token_embd.weight" in done.stderr
    assert "note: " in done.stderr  # rows of 64 are too short for K-quants
    assert "Q4_K_M" in done.stderr.splitlines()[-1]
    again = csaq("convert", tiny_gguf, "--type", "q4_k_m", "-o", out, "--force", "-q")
    assert (again.stdout, again.stderr) == (f"{out}\n", "")


def test_existing_file_is_not_overwritten_without_force(csaq, tiny_gguf, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_text("mine")
    done = csaq("convert", tiny_gguf, "--type", "Q8_0", "-o", out)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("no/such/folder",), 2), (("{gguf}", "--type", "Q9"), 2), (("{gguf}", "--to", "onnx"), 2),
     (("{cut}",), 3), (("{empty}",), 3)],
)  # fmt: skip
def test_wrong_requests_are_one_line(csaq, tiny_gguf, tmp_path, arguments, code):
    (tmp_path / "cut.gguf").write_bytes(tiny_gguf.read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    places = {"gguf": tiny_gguf, "cut": tmp_path / "cut.gguf", "empty": tmp_path / "empty"}
    out = tmp_path / "out.gguf"
    done = csaq("convert", *(a.format(**places) for a in arguments), "-o", out, "-q")
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("csaq: ")
    assert len(done.stderr.splitlines()) <= 2
    assert not out.exists()


def test_missing_torch_says_how_to_install_it(tiny_gguf):
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from csaq_cli.main import main\n"
        f"main(['convert', {str(tiny_gguf)!r}, '--dry-run'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "csaq: convert needs torch, which is not installed",
        "hint: pip install 'csaq-export[convert]'",
    ]


def test_report_is_a_page_with_figures_beside_it(csaq, tiny_gguf, tmp_path):
    out, page = tmp_path / "out.gguf", tmp_path / "report.html"
    done = csaq("convert", tiny_gguf, "--type", "Q8_0", "-o", out, "--report", page, "-q")
    assert done.returncode == 0, done.stderr
    figures = json.loads(page.with_suffix(".json").read_text())
    assert figures["file_bytes"] == out.stat().st_size
    assert "blk.1.ffn_down.weight" in page.read_text()
