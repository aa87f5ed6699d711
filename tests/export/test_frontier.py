"""`csaq frontier`: files of every size are made, measured and drawn, beside the peer's."""

import json
import stat
from pathlib import Path
from xml.etree import ElementTree

import pytest

from csaq_export.frontier import Frontier, Made, measure_frontier
from csaq_export.report.frontier import frontier_figures, frontier_page, frontier_rows
from csaq_runtime.errors import CsaqError, UsageError
from csaq_runtime.evaluate import Divergence, Estimate, Evaluation
from tests.export.models import TEXT, save_folder

# Stands in for llama-quantize: the last arguments are source, target and preset.
PEER = """#!/bin/sh
while [ $# -gt 3 ]; do shift; done
[ "$3" = Q8_0 ] && echo "cannot do it" >&2 && exit 1
cp "$1" "$2"
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    home = tmp_path_factory.mktemp("frontier")
    save_folder(home / "model", "llama")
    (home / "text.txt").write_text(" ".join(TEXT))
    peer = home / "llama-quantize"
    peer.write_text(PEER)
    peer.chmod(peer.stat().st_mode | stat.S_IXUSR)
    return home


def frontier_of(source, folder, presets=("Q4_0",), **changes):
    wanted = Frontier(
        str(source / "model"), presets, " ".join(TEXT), folder, n_ctx=32, n_chunk=2, **changes
    )
    return measure_frontier(wanted, lambda stage, done, total: None)


def test_smaller_files_are_measured_as_further_away(source, tmp_path):
    small, large = frontier_of(source, tmp_path, ("Q4_0", "Q8_0"))
    assert (small.maker, small.preset) == ("csaq", "Q4_0")
    assert small.n_bytes < large.n_bytes == large.path.stat().st_size
    assert small.evaluation.divergence.mean.value > large.evaluation.divergence.mean.value > 0


def test_peer_s_files_stand_beside_ours(source, tmp_path):
    made = frontier_of(source, tmp_path, peer=source / "llama-quantize")
    assert [file.maker for file in made] == ["csaq", "llama-quantize"]
    # The stand-in copies the baseline.
    assert made[1].evaluation.divergence.maximum == 0.0


def test_a_peer_in_this_folder_needs_no_path(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source)
    made = frontier_of(source, tmp_path, peer=Path("llama-quantize"))
    assert [file.maker for file in made] == ["csaq", "llama-quantize"]


def test_peer_s_failure_is_told(source, tmp_path):
    with pytest.raises(CsaqError, match="llama-quantize Q8_0: cannot do it"):
        frontier_of(source, tmp_path, ("Q8_0",), peer=source / "llama-quantize")


@pytest.mark.parametrize("name", ["missing", "text.txt"])
def test_a_peer_that_does_not_run_is_a_usage_error(source, tmp_path, name):
    with pytest.raises(UsageError, match=name):
        frontier_of(source, tmp_path, peer=source / name)


def made(maker, preset, n_bytes, mean):
    divergence = Divergence(
        Estimate(mean, mean / 10), mean, 3 * mean, 9 * mean, Estimate(0.9, 0.01)
    )
    return Made(maker, preset, None, n_bytes, Evaluation(100, Estimate(12.5, 0.1), divergence))


FILES = [
    made("csaq", "Q4_K_M", 4_000_000, 0.02),
    made("peer <b>", "Q4_K_M", 4_000_100, 0.05),
    made("csaq", "Q2_K", 2_000_000, 0.3),
]


def test_rows_go_by_size():
    rows = frontier_rows(FILES)
    assert [row[2] for row in rows] == ["2,000,000", "4,000,000", "4,000,100"]
    assert rows[0][3] == "0.300000 ± 0.030000"


def test_page_shows_every_file_once_and_escapes_names():
    page = frontier_page("title & more", FILES)
    assert "title &amp; more" in page
    assert "<b>" not in page
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    labels = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert labels.count("Q4_K_M") == 2
    assert labels.count("Q2_K") == 1


def test_files_without_loss_leave_the_page_whole():
    page = frontier_page("same", [made("csaq", "F16", 10, 0.0)])
    assert "No points to draw" in page


def test_figures_are_plain_json():
    figures = json.loads(json.dumps(frontier_figures(FILES)))
    assert figures[0]["divergence"] == 0.02
    assert figures[0]["file_bytes"] == 4_000_000
