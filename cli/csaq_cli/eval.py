"""`csaq eval`: GGUF files and a text → perplexity, and divergence from a baseline file."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from csaq_cli.loading import CLEAR_LINE
from csaq_cli.locate import find_gguf
from csaq_cli.table import render_table, size_text
from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_runtime.evaluate import Divergence, Evaluation

EPILOG = """\b
Examples:
  csaq eval my-Q4_K_M.gguf --text wiki.test.raw --baseline my-F16.gguf
  csaq eval *.gguf --text wiki.test.raw --baseline my-F16.gguf --chunks 20 --json
  csaq eval *.gguf --task mmlu/val                    multiple choice; GSM8K and Spider too
"""
ANY: "click.Path" = click.Path(path_type=Path, exists=True)
READABLE: "click.Path" = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog=EPILOG)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE…")
@click.option("--text", type=READABLE, help="UTF-8 text to predict.")
@click.option("--task", type=ANY, help="Questions to answer: MMLU, GSM8K or Spider as published.")
@click.option(
    "--shots", type=click.IntRange(0), default=0, help="Of the task, shown answered first."
)
@click.option("--questions", type=click.IntRange(0), default=0, help="Questions asked; 0: all.")
@click.option("--baseline", type=READABLE, help="The original as a 16- or 32-bit GGUF.")
@click.option("-c", "--ctx", type=click.IntRange(4), default=512, show_default=True, help="Window.")
@click.option("--chunks", type=click.IntRange(0), default=0, help="Windows; 0 takes all.")
@click.option("-t", "--threads", type=click.IntRange(1), help="Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def eval(
    files: tuple[Path, ...],
    text: Path | None,
    task: Path | None,
    shots: int,
    questions: int,
    baseline: Path | None,
    ctx: int,
    chunks: int,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure how well each FILE predicts a text, as llama-perplexity does, or answers questions.

    With --baseline also how far its predictions of the text are from that file's.
    """
    if (text is None) == (task is None):
        raise UsageError("give one of --text and --task")
    from csaq_runtime.engine import Engine
    from csaq_runtime.evaluate import evaluate, text_windows

    paths = [find_gguf(path) for path in files]
    if task is not None:
        from csaq_cli.eval_task import print_scores

        asked = (task, shots, questions)
        print_scores(paths, asked, (ctx, threads), as_json, _progress_line(quiet, "question"))
        return
    assert text is not None
    with ExitStack() as stack:
        engines = [
            stack.enter_context(Engine.open(path, n_ctx=ctx, n_threads=threads))
            for path in [*paths, *([baseline] if baseline else [])]
        ]
        windows = text_windows(engines[0], _read(text), ctx, chunks)
        base = engines.pop() if baseline else None
        found = evaluate(engines, windows, base, _progress_line(quiet))
    if as_json:
        print(json.dumps(_report(paths, found, ctx, len(windows)), ensure_ascii=False, indent=1))
        return
    print(_table(paths, found))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start})") from error


def _progress_line(quiet: bool, unit: str = "window") -> Callable[[int, int], None]:
    """What is done, on a terminal's standard error."""
    if quiet or not sys.stderr.isatty():
        return lambda done, total: None

    def show(done: int, total: int) -> None:
        text = f"{unit} {done} of {total}" if done < total else ""
        print(f"{CLEAR_LINE}{text}", end="", file=sys.stderr, flush=True)

    return show


def _table(paths: Sequence[Path], found: "Sequence[Evaluation]") -> str:
    header = ["file", "size", "perplexity"]
    if found[0].divergence:
        header += ["KL divergence", "median", "99 %", "max", "same top token"]
    rows = [
        [
            path.name,
            size_text(path.stat().st_size),
            f"{each.perplexity.value:.4f} ± {each.perplexity.error:.4f}",
            *(_cells(each.divergence) if each.divergence else ()),
        ]
        for path, each in zip(paths, found, strict=True)
    ]
    return render_table(header, rows)


def _cells(divergence: "Divergence") -> list[str]:
    mean, same = divergence.mean, divergence.same_top
    return [
        f"{mean.value:.6f} ± {mean.error:.6f}",
        *(f"{value:.6f}" for value in (divergence.median, divergence.p99, divergence.maximum)),
        f"{100 * same.value:.2f} ± {100 * same.error:.2f} %",
    ]


def _report(
    paths: Sequence[Path], found: "Sequence[Evaluation]", n_ctx: int, n_chunk: int
) -> dict[str, object]:
    from dataclasses import asdict

    files = [
        {"path": str(path), "file_bytes": path.stat().st_size, **asdict(each)}
        for path, each in zip(paths, found, strict=True)
    ]
    return {"n_ctx": n_ctx, "n_chunk": n_chunk, "files": files}
