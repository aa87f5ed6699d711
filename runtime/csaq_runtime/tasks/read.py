"""Files as the data sets are published → questions.

MMLU    a .csv file without header, or a folder of them: question, four choices, letter
GSM8K   .jsonl with `question` and `answer`, which ends in `#### number`
Spider  .json, a list with `question`, `query` and `db_id`; schemas from tables.json beside it
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csaq_runtime.errors import UsageError
from csaq_runtime.tasks.question import Kind, Question, Task

LETTERS = ("A", "B", "C", "D")
MAX_BYTES = 256 * 2**20
SCHEMAS = "tables.json"


def read_task(path: Path) -> Task:
    """The task in `path`; UsageError naming file and record if it is none."""
    if path.is_dir():
        files = sorted(path.glob("*.csv"))
        questions = tuple(question for file in files for question in _choices(file))
        return _task(path, Kind.CHOICE, questions)
    if path.suffix == ".csv":
        return _task(path, Kind.CHOICE, tuple(_choices(path)))
    if path.suffix == ".jsonl":
        return _task(path, Kind.MATHS, tuple(_maths(path)))
    if path.suffix == ".json":
        return _task(path, Kind.SQL, tuple(_queries(path)))
    raise UsageError(
        f"{path}: not a task", "MMLU is .csv or a folder of them, GSM8K .jsonl, Spider .json"
    )


def is_task(path: Path) -> bool:
    """Whether `path` is named as a task is; .jsonl counts if its first line has an answer."""
    if path.suffix != ".jsonl":
        return path.is_dir() or path.suffix in (".csv", ".json")
    with path.open(encoding="utf-8", errors="replace") as file:
        return '"answer"' in file.readline(1 << 20)


def _task(path: Path, kind: Kind, questions: tuple[Question, ...]) -> Task:
    if not questions:
        raise UsageError(f"{path}: holds no questions")
    return Task(path.name, kind, questions)


def _choices(path: Path) -> Iterator[Question]:
    rows = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        for number, row in enumerate(rows, 1):
            if len(row) != 2 + len(LETTERS) or row[-1].strip() not in LETTERS:
                raise UsageError(f"{path}: row {number}: not a question, four choices and a letter")
            listed = "".join(
                f"{x}. {choice}\n" for x, choice in zip(LETTERS, row[1:5], strict=True)
            )
            prompt = f"{row[0].strip()}\n{listed}Answer:"
            yield Question(prompt, f" {row[-1].strip()}", tuple(f" {x}" for x in LETTERS))
    except csv.Error as error:
        raise UsageError(f"{path}: not CSV: {error}") from error


def _maths(path: Path) -> Iterator[Question]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            record = _record(_json(line, f"{path}: line {number}"), f"{path}: line {number}")
            question, answer = _strings(record, f"{path}: line {number}", "question", "answer")
            if "####" not in answer:
                raise UsageError(f"{path}: line {number}: the answer has no line with ####")
            yield Question(f"Question: {question.strip()}\nAnswer:", f" {answer.strip()}")


def _queries(path: Path) -> Iterator[Question]:
    records = _json(_text(path), str(path))
    if not isinstance(records, list):
        raise UsageError(f"{path}: not a list of questions")
    schemas = _schemas(path.with_name(SCHEMAS))
    for number, each in enumerate(records, 1):
        where = f"{path}: record {number}"
        question, query = _strings(_record(each, where), where, "question", "query")
        schema = schemas.get(str(each.get("db_id")), "")
        yield Question(f"{schema}Question: {question.strip()}\nSQL:", f" {query.strip()}")


def _schemas(path: Path) -> dict[str, str]:
    """Tables and their columns by database, a line each; empty without the file."""
    if not path.exists():
        return {}
    found = {}
    for number, each in enumerate(_json(_text(path), str(path)), 1):
        record = _record(each, f"{path}: record {number}")
        try:
            found[str(record["db_id"])] = _schema(record)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(f"{path}: record {number}: not a schema") from error
    return found


def _schema(record: dict[str, Any]) -> str:
    columns: dict[int, list[str]] = {}
    for table, name in record["column_names_original"]:
        columns.setdefault(table, []).append(str(name))
    tables = enumerate(record["table_names_original"])
    return "".join(f"{name}({', '.join(columns.get(i, []))})\n" for i, name in tables)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from error


def _record(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: not a JSON object")
    return value


def _strings(record: dict[str, Any], where: str, *names: str) -> list[str]:
    for name in names:
        if not isinstance(record.get(name), str):
            raise UsageError(f"{where}: {name} is not a text")
    return [record[name] for name in names]
