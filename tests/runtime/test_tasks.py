"""Tasks: published files are read, answers are judged, models are scored."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from csaq_runtime.errors import UsageError
from csaq_runtime.tasks import Kind, Question, Task, read_task, score
from csaq_runtime.tasks.answers import is_ended, is_right
from csaq_runtime.tasks.read import is_task

MMLU = 'What is 1 + 1?,1,2,3,4,B\n"Two, three,\nor more?",a,"b, c",d,e,D\n'
GSM8K = {"question": "How many?", "answer": "1 + 1 = <<1+1=2>>2\n#### 1,002"}
SPIDER = {"db_id": "shop", "question": "How many shops?", "query": "SELECT count(*) FROM Shop"}
TABLES = {
    "db_id": "shop",
    "table_names_original": ["Shop", "Owner"],
    "column_names_original": [[-1, "*"], [0, "Id"], [0, "Name"], [1, "Age"]],
}


def test_multiple_choice_is_read_from_a_file_and_a_folder(tmp_path):
    (tmp_path / "a.csv").write_text(MMLU)
    (tmp_path / "b.csv").write_text(MMLU)
    task = read_task(tmp_path / "a.csv")
    assert task.kind is Kind.CHOICE
    assert task.questions[0] == Question(
        "What is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", " B", (" A", " B", " C", " D")
    )
    assert "Two, three,\nor more?" in task.questions[1].prompt
    assert len(read_task(tmp_path).questions) == 4


def test_maths_and_sql_are_read_with_schemas(tmp_path):
    (tmp_path / "maths.jsonl").write_text(json.dumps(GSM8K) + "\n")
    (question,) = read_task(tmp_path / "maths.jsonl").questions
    assert question.prompt == "Question: How many?\nAnswer:"
    assert question.answer.endswith("#### 1,002")
    (tmp_path / "dev.json").write_text(json.dumps([SPIDER]))
    assert read_task(tmp_path / "dev.json").questions[0].prompt.startswith("Question:")
    (tmp_path / "tables.json").write_text(json.dumps([TABLES]))
    (query,) = read_task(tmp_path / "dev.json").questions
    assert query.prompt == "Shop(Id, Name)\nOwner(Age)\nQuestion: How many shops?\nSQL:"
    assert query.answer == " SELECT count(*) FROM Shop"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "one,two\n", "row 1: not a question"),
        ("a.csv", "q,1,2,3,4,E\n", "row 1: not a question"),
        ("a.csv", "q,1,2,3,4,\n", "row 1: not a question"),
        ("a.csv", "", "holds no questions"),
        ("a.jsonl", "{}\n", "question is not a text"),
        ("a.jsonl", '{"question": "a", "answer": "b"}\n', "no line with ####"),
        ("a.jsonl", "[" * 100_000, "not JSON"),
        ("a.json", "{}", "not a list"),
        ("a.json", "[1]", "record 1: not a JSON object"),
        ("a.json", '[{"question": 1}]', "question is not a text"),
        ("a.txt", "text", "not a task"),
    ],
)
def test_files_that_are_no_task_are_refused_by_place(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=message):
        read_task(tmp_path / name)


@pytest.mark.parametrize("tables", ["[1]", '[{"db_id": "x"}]', '[{"db_id": "x", "t": 1}]'])
def test_damaged_schemas_are_refused(tmp_path, tables):
    (tmp_path / "dev.json").write_text(json.dumps([SPIDER]))
    (tmp_path / "tables.json").write_text(tables)
    with pytest.raises(UsageError, match=r"tables.json: record 1"):
        read_task(tmp_path / "dev.json")


def test_chats_in_json_lines_are_no_task(tmp_path):
    (tmp_path / "chat.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "maths.jsonl").write_text(json.dumps(GSM8K) + "\n")
    assert not is_task(tmp_path / "chat.jsonl")
    assert is_task(tmp_path / "maths.jsonl")
    assert not is_task(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("kind", "written", "expected", "right"),
    [
        (Kind.MATHS, " 3 + 4 = 7\n#### 1002", "x #### 1,002", True),
        (Kind.MATHS, " so it is $1,002.0", "#### 1002", True),
        (Kind.MATHS, " #### 7\n\nQuestion: 8", "#### 7", True),
        (Kind.MATHS, " #### 8", "#### 7", False),
        (Kind.MATHS, " -7 ", "#### 7", False),
        (Kind.MATHS, " I do not know", "#### 7", False),
        (Kind.SQL, ' select  COUNT( * ) from t;', "SELECT count(*) FROM t", True),
        (Kind.SQL, ' select a where a = "X"', "SELECT a WHERE a='X'", True),
        (Kind.SQL, " SELECT a FROM t\n\nQuestion: b", "select a from t", True),
        (Kind.SQL, " SELECT a FROM t WHERE a = 'x'", "SELECT a FROM t WHERE a = 'X'", False),
        (Kind.SQL, " SELECT a<= 1", "SELECT a < = 1", False),
        (Kind.SQL, "", "SELECT 1", False),
    ],
)  # fmt: skip
def test_answers_are_judged(kind, written, expected, right):
    assert is_right(kind, written, expected) == right


def test_an_answer_ends_where_the_next_question_begins():
    assert is_ended(" #### 7\n\n")
    assert is_ended(" 7\nQuestion: what")
    assert not is_ended("\n\n 7")


class Letters:
    """A stand-in for a model over characters that goes on as a text it knows."""

    def __init__(self, known, n_ctx=400):
        self.known, self.n_ctx = known, n_ctx
        self.vocabulary = SimpleNamespace(
            encode=lambda text, parse_special=True: [1, *map(ord, text)],
            decode=lambda ids: "".join(map(chr, ids)),
        )

    def logits(self, ids):
        rows = np.zeros((len(ids), 128), np.float32)
        for i in range(len(ids)):
            rows[i, self._next(ids[: i + 1])] = 5.0
        return rows

    def generate(self, prompt, sampling, n_predict):
        ids = list(prompt)
        for _ in range(n_predict):
            ids.append(self._next(ids))
            yield SimpleNamespace(token_id=ids[-1])

    def _next(self, ids):
        tail = "".join(map(chr, ids[1:]))[-8:]
        _, found, after = self.known.partition(tail or "?")
        return ord(after[0]) if found and after else 10


def test_the_likeliest_choice_is_taken():
    choices = (" red", " blue", " blurred")
    questions = tuple(Question("The sky is", answer, choices) for answer in choices)
    found = score(Letters("The sky is blue"), Task("t", Kind.CHOICE, questions))
    assert (found.n_question, found.n_right, found.n_cut) == (3, 1, 0)
    assert found.accuracy.value == pytest.approx(1 / 3)


def test_written_answers_are_scored_until_they_end():
    known = "Question: 3 + 4?\nAnswer: it is #### 7\n\nand more"
    questions = tuple(Question("Question: 3 + 4?\nAnswer:", f" #### {n}") for n in (7, 8))
    found = score(Letters(known), Task("t", Kind.MATHS, questions))
    assert found.n_right == 1


def test_long_prompts_lose_their_beginning():
    choices = (" red", " blue")
    task = Task("t", Kind.CHOICE, (Question("The sky is", " blue", choices),), header="x" * 50)
    found = score(Letters("The sky is blue", n_ctx=30), task)
    assert (found.n_right, found.n_cut) == (1, 1)


def test_shots_are_shown_and_not_asked():
    task = Task("t", Kind.SQL, tuple(Question(f"q{i}", f" a{i}") for i in range(4)))
    shown = task.with_shots(2)
    assert shown.header == "q0 a0\n\nq1 a1\n\n"
    assert [question.prompt for question in shown.first(1).questions] == ["q2"]
    assert len(shown.first(0).questions) == 2
