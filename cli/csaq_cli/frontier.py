"""`csaq frontier`: a model → files of many sizes, and a picture of what each size costs."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from csaq_cli.extra import extra_installed
from csaq_cli.shell_completion import complete_file
from csaq_cli.table import render_table
from csaq_export.presets import find_preset
from csaq_runtime.errors import UsageError

EPILOG = """\b
Examples:
  csaq frontier ./my-model --text wiki.test.raw --calib my.txt --presets Q3_K_M,Q4_K_M
  csaq frontier ./my-model --text wiki.test.raw --calib my.txt --peer llama.cpp/build/bin
"""
PRESETS = "Q2_K,Q3_K_S,Q3_K_M,IQ4_XS,Q4_K_S,Q4_K_M,Q5_K_M,Q6_K"
FOLDER: "click.Path" = click.Path(path_type=Path, file_okay=False)
READABLE: "click.Path" = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog=EPILOG)
@click.argument("model", shell_complete=complete_file)
@click.option("--text", type=READABLE, required=True, help="Text to measure on, UTF-8.")
@click.option(
    "--calib", shell_complete=complete_file, help="Calibration text; not the one to measure on."
)
@click.option("--peer", type=click.Path(path_type=Path), help="llama-quantize, or its folder.")
@click.option("--presets", default=PRESETS, show_default=True, help="Whose sizes.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("frontier.html"),
    show_default=True,
    help="HTML page; JSON goes beside it.",
)
@click.option("--keep", type=FOLDER, help="Keep the files and statistics here.")
@click.option("-c", "--ctx", type=click.IntRange(4), default=512, show_default=True, help="Window.")
@click.option("--chunks", type=click.IntRange(0), default=0, help="Windows; 0 takes all.")
@click.option(
    "--nsamples",
    type=click.IntRange(2),
    default=128,
    show_default=True,
    help="Calibration windows.",
)
@click.option(
    "--seqlen", type=click.IntRange(8), default=512, show_default=True, help="Tokens of each."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def frontier(
    model: str, text: Path, calib: str | None, peer: Path | None, presets: str, output: Path,
    keep: Path | None, ctx: int, chunks: int, nsamples: int, seqlen: int, quiet: bool,
) -> None:  # fmt: skip
    """Convert MODEL to the sizes of several presets and measure each file.

    With --peer also llama-quantize's files of these presets; with --calib both are guided
    by the text. Prints a table and the path of the page.
    """
    names = tuple(find_preset(name.strip())[0] for name in presets.split(","))
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output.parent}: no such folder")
    with extra_installed("frontier"):
        from csaq_cli.progress import show_stages
        from csaq_export.frontier import Frontier, measure_frontier
        from csaq_export.guidance import Calibrating
        from csaq_export.report.frontier import (
            HEADER,
            frontier_figures,
            frontier_page,
            frontier_rows,
        )
        from csaq_export.report.page import write_page

    calibrating = None if calib is None else Calibrating(calib, nsamples, seqlen, 0, "auto")
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csaq-")))
        folder.mkdir(parents=True, exist_ok=True)
        tool = peer / "llama-quantize" if peer is not None and peer.is_dir() else peer
        content = text.read_text(encoding="utf-8", errors="replace")
        wanted = Frontier(model, names, content, folder, calibrating, tool, ctx, chunks)
        made = measure_frontier(wanted, stack.enter_context(show_stages(quiet)))
    title = f"{Path(model).name}: divergence by size"
    write_page(output, frontier_page(title, made), {"files": frontier_figures(made)})
    print(render_table(HEADER, frontier_rows(made)))
    print(output)
