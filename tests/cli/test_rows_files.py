"""Files of the rows layout by the command line: made, looked into, judged, run, made stock."""

import json

import pytest
from click.testing import CliRunner

from csaq_cli.main import cli
from tests.export.models import TEXT, save_folder
from tests.server.conftest import running


def csaq(*words):
    done = CliRunner().invoke(cli, [str(word) for word in words], prog_name="csaq")
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(rows file, stock file of it, calibration text)"""
    folder = tmp_path_factory.mktemp("rows")
    save_folder(folder / "model", "llama3-tied", num_hidden_layers=1)
    text = folder / "calib.txt"
    text.write_text(" ".join(TEXT))
    rows, stock = folder / "rows.gguf", folder / "stock.gguf"
    csaq("convert", folder / "model", "--method", "csaq", "--layout", "rows", "--bpw", 9,
         "--protection-floor", 0, "--clique-threshold", 0.4, "--calib", text,
         "--nsamples", 8, "--seqlen", 16, "-o", rows)  # fmt: skip
    csaq("convert", rows, "--layout", "stock", "-o", stock)
    return rows, stock, text


def test_info_counts_rows_by_width_and_cliques_by_size(made):
    rows, _, _ = made
    found = json.loads(csaq("info", rows, "--json"))
    matrices = {(share["tier"], share["type"]): share for share in found["tiers"]}
    assert {(8, "Q8_0"), (4, "Q5_0")} <= matrices.keys()
    # Embedding, q, k, v, o, gate, up, down.
    n_row = 320 + 64 + 32 + 32 + 64 + 96 + 96 + 64
    assert sum(share["n_row"] for share in found["tiers"]) == n_row
    assert sum(share["n_weight"] for share in found["tiers"]) == found["parameters"] - 3 * 64 - 8
    sizes = {int(size): n for size, n in found["clique_sizes"].items()}
    assert sum(size * n for size, n in sizes.items()) == n_row - 320
    assert max(sizes) > 1
    assert found["bpw"] == pytest.approx(8 * rows.stat().st_size / found["parameters"], abs=1e-3)
    text = csaq("info", rows)
    assert "rows alone" in text
    assert "b8" in text


def test_the_stock_file_has_ordinary_tensors_and_predicts_the_same(made):
    rows, stock, text = made
    found = json.loads(csaq("info", stock, "--json"))
    assert found["architecture"] == "llama"
    assert not found["tiers"]
    (line,) = json.loads(csaq("eval", rows, "--text", text, "--baseline", stock,
                              "-c", 32, "--chunks", 2, "--json"))["files"]  # fmt: skip
    assert 0 <= line["divergence"]["mean"]["value"] < 1e-3


def test_diff_names_the_tiers_that_only_one_has(made):
    rows, stock, _ = made
    found = json.loads(csaq("diff", rows, stock, "--json"))
    assert "blk.0.ffn_up.weight.b8" in found["only_a"]
    assert "blk.0.ffn_up.weight" in found["only_b"]


def test_a_reply_and_its_speed(made):
    rows, _, _ = made
    reply = json.loads(csaq("run", rows, "-p", "Once", "-n", 4, "--temp", 0, "--json"))
    assert reply["generated_tokens"] == 4
    assert "tg4" in csaq("bench", rows, "-p", 8, "-n", 4, "-r", 1)
    wanted = {"prompt": "Once", "n_predict": 4, "temperature": 0}
    with running(rows, "-np", 1, "-c", 32) as server:
        status, served = server.ask("/completion", wanted)
    assert (status, served["content"]) == (200, reply["text"])
