"""Reports: charts, grids and pages hold what they are given, escaped and self-contained."""

import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csaq_export.pipeline import Conversion, plan
from csaq_export.report.chart import HEIGHT, WIDTH, Point, Series, draw_chart
from csaq_export.report.conversion import conversion_figures, conversion_page
from csaq_export.report.grid import Cell, draw_grid
from csaq_export.report.page import render_page, render_rows, write_page
from csaq_runtime.errors import UsageError
from tests.export.models import save_folder

SVG = "{http://www.w3.org/2000/svg}"
POSITIVE = st.floats(1e-12, 1e12)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=6))
def test_every_point_is_inside_the_chart(pairs):
    points = tuple(Point(x, y, "p") for x, y in pairs)
    drawn = ElementTree.fromstring(draw_chart([Series("one", points)], "x", "y"))
    circles = list(drawn.iter(f"{SVG}circle"))
    assert len(circles) == len(pairs) + 1  # and one in the legend
    assert all(0 <= float(c.get("cx")) <= WIDTH for c in circles)
    assert all(0 <= float(c.get("cy")) <= HEIGHT for c in circles)


def test_lower_divergence_is_drawn_lower_and_larger_files_further_right():
    points = (Point(1, 0.1, "a"), Point(2, 0.01, "b"))
    drawn = ElementTree.fromstring(draw_chart([Series("one", points)], "x", "y"))
    a, b, _ = drawn.iter(f"{SVG}circle")
    assert float(a.get("cx")) < float(b.get("cx"))
    assert float(a.get("cy")) < float(b.get("cy"))


def test_the_longest_name_of_the_legend_fits_beside_the_chart():
    drawn = draw_chart([Series("llama-quantize + imatrix", (Point(1, 0.1, "a"),))], "x", "y")
    names = [t for t in ElementTree.fromstring(drawn).iter(f"{SVG}text") if "llama" in t.text]
    # Letters of a sans-serif font are about half as wide as they are high, 11 pixels here.
    assert all(float(t.get("x")) + 6 * len(t.text) <= WIDTH for t in names)


def test_points_without_place_on_the_axis_are_left_out():
    assert "No points" in draw_chart([Series("one", (Point(1, 0.0, "a"),))], "x", "y")


def test_grid_has_a_cell_per_matrix_in_the_order_of_the_model():
    names = ["output.weight", "blk.10.attn_q.weight", "blk.2.ffn_up.weight", "blk.2.other.weight"]
    drawn = ElementTree.fromstring(draw_grid({n: Cell(i, f"<{i}>") for i, n in enumerate(names)}))
    texts = [text.text for text in drawn.iter(f"{SVG}text")]
    assert texts[:4] == ["attn_q", "ffn_up", "output", "other"]
    assert texts[4:7] == [None, "layer 2", "layer 10"]
    assert texts[7:] == ["<0>", "<1>", "<2>", "<3>"]
    assert len(list(drawn.iter(f"{SVG}rect"))) == 4


def test_pages_need_nothing_from_elsewhere_and_escape():
    page = render_page("<t>", [("a & b", render_rows(("x",), [("<script>",), ("12",)]))])
    assert "<script>" not in page
    assert "http" not in page
    assert 'class="number">12<' in page


def test_page_and_figures_are_written_together_or_refused(tmp_path):
    beside = write_page(tmp_path / "page.html", "hello", {"a": 1})
    assert json.loads(beside.read_text()) == {"a": 1}
    with pytest.raises(UsageError, match="no such folder"):
        write_page(tmp_path / "missing" / "page.html", "hello", {})


def test_conversion_report_adds_up(tmp_path):
    save_folder(tmp_path / "model", "llama")
    planned = plan(Conversion(str(tmp_path / "model"), tmp_path / "out.gguf", "Q4_0"))
    figures = json.loads(json.dumps(conversion_figures(planned, tmp_path / "out.gguf")))
    assert figures["file_bytes"] == planned.n_bytes
    assert sum(t["n_bytes"] for t in figures["tensors"]) <= planned.n_bytes
    page = conversion_page(planned, tmp_path / "out.gguf")
    assert page.count("<rect") == 3 * 7 + 2
    assert all(tensor.name in page for tensor in planned.tensors)
    assert f"{planned.n_bytes:,} bytes" in page
