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


@pytest.fixture
def dataset(tmp_path):
    """A dataset as on the hub, here on disk: configurations of plain text and of chats."""
    folder = tmp_path / "dataset"
    chats = [{"messages": [{"role": "user", "content": f"red balloons {n}"}]} for n in range(9)]
    files = {
        "plain/train.jsonl": [{"text": text} for text in TEXT],
        "plain/other.jsonl": [{"text": "The cat ran away"}] * 9,
        "chat/train.jsonl": chats,
        "odd/train.jsonl": [{"n": 1}],
    }
    for name, records in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(json.dumps(record) for record in records))
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: plain\n  default: true\n  data_files:\n"
        "  - {split: train, path: plain/train.jsonl}\n"
        "  - {split: test, path: plain/other.jsonl}\n"
        "- {config_name: chat, data_files: chat/train.jsonl}\n"
        "- {config_name: odd, data_files: odd/train.jsonl}\n---\n"
    )
    return folder


@pytest.mark.parametrize(
    ("suffix", "records"),
    [
        ("", TEXT),
        (":plain", TEXT),
        (":plain:test", ["The cat ran away"] * 9),
        (":chat", [f"red balloons {n}" for n in range(9)]),
    ],
)
def test_datasets_give_the_windows_of_their_records(tokenizer, dataset, tmp_path, suffix, records):
    found = read_calibration(f"{dataset}{suffix}", tokenizer, 4, 8, 1)
    lines = "\n".join(json.dumps({"text": record}) for record in records)
    (tmp_path / "same.jsonl").write_text(lines)
    expected = read_calibration(str(tmp_path / "same.jsonl"), tokenizer, 4, 8, 1)
    assert torch.equal(found.tokens, expected.tokens)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (":absent", "cannot be loaded: .*absent"),
        (":plain:validation", "cannot be loaded: .*validation"),
        (":odd", "record 1: neither messages nor text"),
    ],
)
def test_what_a_dataset_lacks_is_said(tokenizer, dataset, suffix, message):
    with pytest.raises(UsageError, match=message):
        read_calibration(f"{dataset}{suffix}", tokenizer, 4, 8, 0)


def test_a_damaged_dataset_is_one_typed_error(tokenizer, dataset):
    (dataset / "plain" / "train.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(UsageError, match="cannot be loaded"):
        read_calibration(str(dataset), tokenizer, 4, 8, 0)


def test_a_folder_without_data_is_refused(tokenizer, tmp_path):
    with pytest.raises(UsageError, match="cannot be loaded"):
        read_calibration(str(tmp_path), tokenizer, 4, 8, 0)


def test_chats_need_a_template(tmp_path):
    plain = byte_level_tokenizer("llama-bpe")
    plain.chat_template = None
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
    with pytest.raises(UsageError, match="does not fit the model's template"):
        read_calibration(str(path), plain, 4, 8, 0)


def test_missing_file_is_a_usage_error(tokenizer):
    with pytest.raises(UsageError, match="no such file"):
        read_calibration("nothing.txt", tokenizer, 4, 16, 0)
