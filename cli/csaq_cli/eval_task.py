"""`csaq eval --task`: GGUF files and questions → how many each answers right."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from csaq_cli.table import render_table, size_text
from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.tasks import Score, Task, read_task, score

Progress = Callable[[int, int], None]


def print_scores(
    paths: Sequence[Path],
    asked: tuple[Path, int, int],
    opened: tuple[int, int | None],
    as_json: bool,
    progress: Progress,
) -> None:
    """Ask every file and print a table or one JSON object.

    `asked`: file, shots and questions (0 asks all); `opened`: context and threads.
    """
    path, n_shot, n_question = asked
    task = read_task(path).with_shots(n_shot).first(n_question)
    if not task.questions:
        raise UsageError(f"{path}: no questions are left behind {n_shot} shots")
    found = [_score(each, task, opened, progress) for each in paths]
    if as_json:
        print(json.dumps(_report(paths, found, task, n_shot), ensure_ascii=False, indent=1))
        return
    print(_table(paths, found))


def _score(path: Path, task: Task, opened: tuple[int, int | None], progress: Progress) -> Score:
    n_ctx, n_thread = opened
    with Engine.open(path, n_ctx=n_ctx, n_threads=n_thread) as engine:
        return score(engine, task, progress)


def _table(paths: Sequence[Path], found: Sequence[Score]) -> str:
    header = ["file", "size", "questions", "right", "accuracy", "prompts cut"]
    rows = [
        [
            path.name,
            size_text(path.stat().st_size),
            str(each.n_question),
            str(each.n_right),
            f"{100 * each.accuracy.value:.2f} ± {100 * each.accuracy.error:.2f} %",
            str(each.n_cut),
        ]
        for path, each in zip(paths, found, strict=True)
    ]
    return render_table(header, rows)


def _report(
    paths: Sequence[Path], found: Sequence[Score], task: Task, n_shot: int
) -> dict[str, object]:
    files = [
        {"path": str(path), "file_bytes": path.stat().st_size, **asdict(each)}
        for path, each in zip(paths, found, strict=True)
    ]
    return {"task": task.name, "kind": task.kind.value, "shots": n_shot, "files": files}
