"""`csaq bench`: trials, llama-bench's table and JSON, and the comparison with a peer."""

import json
import stat
from pathlib import Path

import pytest

from csaq_cli.bench_peer import peer_rate
from csaq_cli.bench_report import Outcome
from csaq_cli.bench_trial import Trial, trials
from csaq_runtime.errors import UsageError

FAKE = """#!/bin/sh
case "$*" in
  *"--repack 0"*) echo '[{"avg_ts": 200.0}]' ;;
  *) echo '[{"avg_ts": 100.0}]' ;;
esac
"""


@pytest.fixture
def fake_peer(tmp_path: Path) -> Path:
    return program(tmp_path / "llama-bench", FAKE)


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_trials_are_all_combinations_without_zeros():
    found = list(trials((0, 512), (128,), (0, 64), (1, 2)))
    assert [(t.label, t.n_threads) for t in found] == [
        ("pp512", 1), ("tg128", 1), ("pp512 @ d64", 1), ("tg128 @ d64", 1),
        ("pp512", 2), ("tg128", 2), ("pp512 @ d64", 2), ("tg128 @ d64", 2),
    ]  # fmt: skip


def test_ratio_compares_medians():
    assert Outcome(Trial(8, 0, 0, 1), [1.0, 30.0, 40.0], [10.0, 15.0, 99.0]).ratio == 2.0
    assert Outcome(Trial(8, 0, 0, 1), [1.0]).ratio is None


def test_table_has_a_row_per_test_in_llama_benchs_columns(csaq, tiny_gguf):
    done = csaq("bench", tiny_gguf, "-p", "8", "-n", "2", "-d", "0,4", "-t", "1", "-r", "2")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert rows[0] == ["model", "size", "params", "backend", "threads", "test", "t/s"]
    assert [row[5] for row in rows[2:]] == ["pp8", "tg2", "pp8 @ d4", "tg2 @ d4"]
    assert all(float(row[6].split(" ± ")[0]) > 0 for row in rows[2:])


def test_json_holds_every_sample_and_the_better_variant_of_the_peer(csaq, tiny_gguf, fake_peer):
    arguments = ("-p", "8", "-n", "0", "-t", "2", "-r", "3", "--vs", fake_peer, "--json")
    done = csaq("bench", tiny_gguf, *arguments)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert (result["n_prompt"], result["n_gen"], result["n_threads"]) == (8, 0, 2)
    assert len(result["samples_ts"]) == 3
    assert result["peer_samples_ts"] == [200.0] * 3
    assert result["ratio_of_medians"] == sorted(result["samples_ts"])[1] / 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-t", "0"], "1 … 1000000"),
        (["-p", "x"], "not a list of whole numbers"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-t", "2000"], "2000 threads: must be 1 … 1024"),
        (["-p", "1000000", "-d", "1000000"], "n_ctx"),
    ],
)
def test_wrong_counts_are_one_line(csaq, tiny_gguf, arguments, words):
    done = csaq("bench", tiny_gguf, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho failed >&2\necho no model >&2\nexit 1\n", "failed: no model"),
        ("#!/bin/sh\nexit 3\n", "failed: no message"),
        ("#!/bin/sh\necho hello\n", "did not print llama-bench's JSON"),
        ("#!/bin/sh\necho '[]'\n", "did not print llama-bench's JSON"),
        ("#!/no/such/interpreter\n", "cannot be run"),
    ],
)
def test_a_peer_that_fails_is_named(tmp_path, text, words):
    peer = program(tmp_path / "peer", text)
    with pytest.raises(UsageError, match=words):
        peer_rate(peer, tmp_path, Trial(8, 0, 0, 1), "f16", "1")


def test_a_peer_in_this_folder_needs_no_path(tmp_path, monkeypatch):
    program(tmp_path / "llama-bench", FAKE)
    monkeypatch.chdir(tmp_path)
    assert peer_rate(Path("./llama-bench"), tmp_path, Trial(8, 0, 0, 1), "f16", "0") == 200.0
