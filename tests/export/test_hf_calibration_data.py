import pytest
import torch

from csaq_export import build_calibration_data
from csaq_export.hf import calibration_data
from csaq_export.hf.calibration_data import as_calibration
from csaq_runtime.errors import UsageError
from tests.export.models import TEXT, byte_level_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer("llama-bpe")


def test_windows_are_full_of_text(tokenizer):
    windows = build_calibration_data(tokenizer, custom_texts=TEXT, n=6, seq_len=48)
    assert len(windows) == 6
    for window in windows:
        assert window["input_ids"].shape == (1, 48)
        assert bool(window["attention_mask"].all())
        assert window["input_ids"][0, 0] == tokenizer.bos_token_id


def test_the_seed_decides_the_windows(tokenizer):
    drawn = [build_calibration_data(tokenizer, TEXT, n=4, seq_len=32, seed=s) for s in (0, 0, 1)]
    ids = [torch.cat([window["input_ids"] for window in windows]) for windows in drawn]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


def test_without_texts_wikitext_is_read(tokenizer, monkeypatch):
    asked = []

    def read(source, *settings):
        asked.append(source)
        return as_calibration([{"input_ids": torch.ones(2, 8, dtype=torch.long)}], None, 8)

    monkeypatch.setattr(calibration_data, "read_calibration", read)
    assert len(build_calibration_data(tokenizer, n=2, seq_len=8)) == 2
    assert asked == ["Salesforce/wikitext:wikitext-2-raw-v1:train"]


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        (["short"], {"seq_len": 64}, "one window needs 64"),
        ("a text", {}, "list of texts"),
        ([1], {}, "not a text"),
        (TEXT, {"n": 0}, "nothing to calibrate"),
        (TEXT, {"seq_len": 1}, "nothing to calibrate"),
    ],
)
def test_unusable_texts_are_refused(tokenizer, texts, settings, words):
    with pytest.raises(UsageError) as caught:
        build_calibration_data(tokenizer, texts, **settings)
    assert words in f"{caught.value} {caught.value.hint}"


def test_windows_and_texts_are_taken(tokenizer):
    windows = build_calibration_data(tokenizer, TEXT, n=3, seq_len=16)
    assert as_calibration(windows, None, 999).tokens.shape == (3, 16)
    assert as_calibration(TEXT, tokenizer, 32).tokens.shape[1] == 32
    one_dimension = [{"input_ids": torch.arange(5)}] * 2
    assert as_calibration(one_dimension, None, 999).tokens.shape == (2, 5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "no calibration data"),
        (["text"], "tokenizer"),
        ([{"ids": 1}], "input_ids"),
        ([{"input_ids": torch.ones(1, n, dtype=torch.long)} for n in (3, 4)], "length"),
        (
            [{"input_ids": torch.ones(1, 2), "attention_mask": torch.tensor([[1, 0]])}],
            "padded",
        ),
    ],
)
def test_unusable_data_is_refused(data, words):
    with pytest.raises(UsageError, match=words):
        as_calibration(data, None, 128)
