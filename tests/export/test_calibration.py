"""Windows are drawn by seed from text, chats and records, and short input is refused."""

import json

import pytest
import torch

from csaq_export.calibration import read_calibration
from csaq_runtime.errors import UsageError
from tests.export.models import TEXT, byte_level_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer("llama-bpe")


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(TEXT))
    return path


def test_windows_are_seeded_and_disjoint(tokenizer, text_file):
    one, again, other = (
        read_calibration(str(text_file), tokenizer, 6, 16, seed) for seed in (3, 3, 4)
    )
    assert one.tokens.shape == (6, 16)
    assert torch.equal(one.tokens, again.tokens)
    assert one.sha256 == again.sha256 != other.sha256
    assert len({tuple(window[1:].tolist()) for window in one.tokens}) == 6


def test_every_window_begins_with_the_begin_token(tokenizer, text_file):
    tokens = read_calibration(str(text_file), tokenizer, 4, 8, 0).tokens
    assert tokens[:, 0].tolist() == [tokenizer.bos_token_id] * 4


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"messages": [{"role": "user", "content": "red balloons"}]}, "red balloons"),
        ({"text": "It was sunny", "id": "x"}, "It was sunny"),
        ({"question": "dog", "answer": "cat", "n": 3}, "dog\ncat"),
    ],
)
def test_chats_and_records_of_json_lines_are_read(tokenizer, tmp_path, record, text):
    path = tmp_path / "some.jsonl"
    path.write_text(f"\n{json.dumps(record)}\n")
    expected = tokenizer(text)["input_ids"]
    tokens = read_calibration(str(path), tokenizer, 100, 1 + len(expected), 0).tokens
    assert tokens.tolist() == [[tokenizer.bos_token_id, *expected]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.txt", "a", "one window needs 16"),
        ("bad.jsonl", '{"text": "ok"}\n{', "line 2: not JSON"),
        ("list.jsonl", "[1]", "line 1: not a JSON object"),
        ("empty.jsonl", '{"n": 1}', "neither messages nor text"),
    ],
)
def test_unusable_files_are_named(tokenizer, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_calibration(str(path), tokenizer, 4, 16, 0)


def test_text_that_is_not_utf8_is_named(tokenizer, tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\xff\xfe\xe9")
    with pytest.raises(UsageError, match="UTF-8"):
        read_calibration(str(path), tokenizer, 4, 16, 0)


def test_missing_file_is_a_usage_error(tokenizer):
    with pytest.raises(UsageError, match="no such file"):
        read_calibration("nothing.txt", tokenizer, 4, 16, 0)
