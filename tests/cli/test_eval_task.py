"""`csaq eval --task` asks real models questions and prints a table or JSON."""

import json

import pytest

FILES = {
    "task.csv": "Is it big?,yes,no,red,cat,B\nIs it small?,yes,no,red,cat,A\n" * 2,
    "maths.jsonl": '{"question": "2 + 2?", "answer": "It is #### 4"}\n',
    "dev.json": '[{"question": "How many?", "query": "SELECT 1", "db_id": "x"}]',
}


@pytest.mark.parametrize(("name", "n"), [("task.csv", 3), ("maths.jsonl", 1), ("dev.json", 1)])
def test_json_counts_questions_and_right_answers(csaq, tiny_gguf, tmp_path, name, n):
    (tmp_path / name).write_text(FILES[name])
    shots = ["--shots", 1] if n > 1 else []
    done = csaq("eval", tiny_gguf, "--task", tmp_path / name, *shots, "--json", "-c", 64)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (file,) = report["files"]
    assert (report["task"], file["n_question"]) == (name, n)
    assert file["accuracy"]["value"] == file["n_right"] / n


def test_table_and_limits(csaq, tiny_gguf, tmp_path):
    (tmp_path / "task.csv").write_text(FILES["task.csv"])
    task = ("--task", tmp_path / "task.csv", "-c", 64)
    done = csaq("eval", tiny_gguf, *task, "--questions", 2)
    assert "accuracy" in done.stdout
    assert " 2 " in done.stdout
    assert csaq("eval", tiny_gguf, *task, "--shots", 9).returncode == 2


def test_text_or_task_and_not_both(csaq, tiny_gguf, tmp_path):
    assert csaq("eval", tiny_gguf).returncode == 2
    (tmp_path / "task.csv").write_text(FILES["task.csv"])
    both = ("--task", tmp_path / "task.csv", "--text", tmp_path / "task.csv")
    assert csaq("eval", tiny_gguf, *both).returncode == 2
