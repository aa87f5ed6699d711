"""How far a conversion is, on standard error: a bar on a terminal, a line per tenth elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from csaq_export.pipeline import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

Show = Callable[[Progress], None]


@contextmanager
def show_progress(quiet: bool) -> Iterator[Show]:
    """Give the callback that `csaq_export.pipeline.convert` calls before every tensor."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


def _lines() -> Show:
    shown = -1

    def show(progress: Progress) -> None:
        nonlocal shown
        tenth = 10 * progress.done_bytes // progress.total_bytes
        if tenth > shown:
            shown = tenth
            print(f"{10 * tenth:3} % {progress.tensor.name}", file=sys.stderr, flush=True)

    return show


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True))
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.tensor.name,
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )

        yield show


@contextmanager
def show_stages(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Give the callback of a calibrated conversion: stage, steps done, steps in all."""
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _stage_bar() as show:
            yield show
    else:
        yield _stage_lines()


def _stage_lines() -> Callable[[str, int, int], None]:
    shown = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal shown
        if stage != shown:
            shown = stage
            print(f"{stage}: {total} steps", file=sys.stderr, flush=True)

    return show


@contextmanager
def _stage_bar() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
