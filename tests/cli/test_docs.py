"""The guides name every option there is, and none that is not."""

import re
from pathlib import Path

import click
import pytest

from csaq_cli.bench import bench
from csaq_cli.calibrate import calibrate
from csaq_cli.convert import convert
from csaq_cli.diff import diff
from csaq_cli.eval import eval as evaluate
from csaq_cli.frontier import frontier
from csaq_cli.info import info
from csaq_cli.run import run
from csaq_cli.serve import serve
from csaq_export.presets import PRESETS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize(
    ("guide", "commands"),
    [
        ("run.md", [run]),
        ("serve.md", [serve]),
        ("bench.md", [bench]),
        ("convert.md", [convert]),
        ("calibrate.md", [calibrate]),
        ("eval.md", [evaluate]),
        ("frontier.md", [frontier]),
        ("info.md", [info, diff]),
    ],
)
def test_guide_and_commands_agree_on_the_options(guide, commands):
    rows = [line for line in (DOCS / guide).read_text().splitlines() if line.startswith("| `-")]
    named = {flag for row in rows for flag in re.findall(r"`(-[\w-]+)", row.split("|")[1])}
    options = [p for c in commands for p in c.params if isinstance(p, click.Option)]
    real = {flag for option in options for flag in option.opts}
    assert named == real


@pytest.mark.parametrize("page", [DOCS / "convert.md", DOCS.parent / "README.md"])
def test_page_names_every_type_that_needs_no_calibration(page):
    lines = [line for line in page.read_text().splitlines() if line.startswith("|")]
    named = set(re.findall(r"[A-Z0-9_]+", " ".join(lines)))
    assert {name for name, preset in PRESETS.items() if not preset.needs_importance} <= named
