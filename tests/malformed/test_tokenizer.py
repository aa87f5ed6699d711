"""Hostile vocabularies: each is one typed, one-line error that names its key."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from csaq_runtime.errors import CsaqError, GGUFError, TokenizerError
from csaq_runtime.gguf import open_gguf
from csaq_runtime.tokenizer import Vocabulary, load_vocabulary

Change = Callable[[dict[str, Any]], Any]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPM: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "ab", "▁ab"],
    "tokenizer.ggml.scores": [0.0] * 259 + [-9.0, -8.0, -7.0, -2.0, -1.0],
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
BPE: dict[str, Any] = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": ["a", "b", "c", "Ġ", "ab", "Ġab", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 6 + [3],
    "tokenizer.ggml.merges": ["a b", "Ġ ab"],
    "tokenizer.ggml.eos_token_id": 6,
}


def set_to(key: str, value: Any) -> Change:
    return lambda pairs: pairs.__setitem__(f"tokenizer.ggml.{key}", value)


def put(key: str, at: int, value: Any) -> Change:
    def change(pairs: dict[str, Any]) -> None:
        pairs[f"tokenizer.ggml.{key}"] = list(pairs[f"tokenizer.ggml.{key}"])
        pairs[f"tokenizer.ggml.{key}"][at] = value

    return change


def drop(key: str) -> Change:
    return lambda pairs: pairs.pop(f"tokenizer.ggml.{key}")


CASES: dict[str, tuple[dict[str, Any], Change, str]] = {
    "unknown model": (SPM, set_to("model", "t5"), "model"),
    "model is a number": (SPM, set_to("model", 7), "model"),
    "no model": (SPM, drop("model"), "model"),
    "no tokens": (SPM, drop("tokens"), "tokens"),
    "tokens are numbers": (SPM, set_to("tokens", [1, 2, 3]), "tokens"),
    "tokens are one text": (SPM, set_to("tokens", "abc"), "tokens"),
    "duplicate token": (SPM, put("tokens", 263, "a"), "tokens"),
    "duplicate token bpe": (BPE, put("tokens", 2, "a"), "tokens"),
    "byte token -1": (SPM, put("tokens", 3, "<0x-1>"), "tokens"),
    "byte token 100": (SPM, put("tokens", 3, "<0x100>"), "tokens"),
    "byte token GG": (SPM, put("tokens", 3, "<0xGG>"), "tokens"),
    "byte token unicode digits": (SPM, put("tokens", 3, "<0x٣٤>"), "tokens"),
    "byte token is text": (SPM, put("tokens", 3, "hello"), "tokens"),
    "scores too short": (SPM, set_to("scores", [0.0] * 10), "scores"),
    "scores too long": (SPM, set_to("scores", [0.0] * 999), "scores"),
    "scores are texts": (SPM, set_to("scores", ["a"] * 264), "scores"),
    "score nan": (SPM, put("scores", 5, float("nan")), "scores"),
    "types too short": (SPM, set_to("token_type", [1] * 263), "token_type"),
    "types are floats": (SPM, set_to("token_type", [1.0] * 264), "token_type"),
    "type 7": (SPM, put("token_type", 262, 7), "token_type"),
    "type -1": (SPM, put("token_type", 262, -1), "token_type"),
    "bos beyond": (SPM, set_to("bos_token_id", 264), "bos_token_id"),
    "bos far beyond": (SPM, set_to("bos_token_id", 2**32 - 1), "bos_token_id"),
    "eos beyond": (BPE, set_to("eos_token_id", 7), "eos_token_id"),
    "eot beyond": (BPE, set_to("eot_token_id", 7), "eot_token_id"),
    "eos is text": (BPE, set_to("eos_token_id", "6"), "eos_token_id"),
    "add_bos is text": (SPM, set_to("add_bos_token", "yes"), "add_bos_token"),
    "add_space_prefix is a number": (SPM, set_to("add_space_prefix", 1), "add_space_prefix"),
    "unknown pre": (BPE, set_to("pre", "no-such-cutter"), "pre"),
    "pre is a number": (BPE, set_to("pre", 3), "pre"),
    "no merges": (BPE, drop("merges"), "merges"),
    "merges are numbers": (BPE, set_to("merges", [1, 2]), "merges"),
    "merge of one": (BPE, put("merges", 0, "ab"), "merges"),
    "merge of nothing": (BPE, put("merges", 0, " "), "merges"),
    "merge half unknown": (BPE, put("merges", 0, "a z"), "merges"),
    "merge product unknown": (BPE, put("merges", 0, "a c"), "merges"),
    "merge of three": (BPE, put("merges", 0, "a b c"), "merges"),
}


def write(path: Path, pairs: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in pairs.items():
        if key == "general.architecture":
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def load(path: Path, pairs: dict[str, Any]) -> Vocabulary:
    with open_gguf(write(path, pairs)) as file:
        return load_vocabulary(file)


@pytest.mark.parametrize(("sound", "change", "field"), CASES.values(), ids=CASES)
def test_hostile_vocabulary_is_one_error_that_names_the_key(
    sound: dict[str, Any], change: Change, field: str, tmp_path: Path
) -> None:
    pairs = dict(sound)
    change(pairs)
    started = time.monotonic()
    with pytest.raises((TokenizerError, GGUFError)) as failure:
        load(tmp_path / "hostile.gguf", pairs)
    message = str(failure.value)
    assert f"tokenizer.ggml.{field}:" in message
    assert "hostile.gguf" in message
    assert "\n" not in message
    assert time.monotonic() - started < 1


def test_the_sound_vocabularies_load(tmp_path: Path) -> None:
    words = load(tmp_path / "spm.gguf", SPM)
    assert words.encode("ab", add_special=False) == [263]
    assert words.decode(words.encode("ab é\n")) == "ab é\n"
    words = load(tmp_path / "bpe.gguf", BPE)
    assert words.encode("ab ab<|im_end|>") == [4, 5, 6]
    assert words.eog_ids == {6}


def test_vocabulary_of_none_loads_but_refuses_text(tmp_path: Path) -> None:
    words = load(
        tmp_path / "none.gguf",
        {"tokenizer.ggml.model": "none", "llama.vocab_size": 99},
    )
    assert words.n_vocab == 99
    with pytest.raises(TokenizerError, match="no vocabulary"):
        words.encode("a")
    with pytest.raises(TokenizerError):
        words.decode([1])


def test_bytes_without_a_token_are_dropped_without_joining_their_neighbours(tmp_path: Path) -> None:
    assert load(tmp_path / "bpe.gguf", BPE).encode("a%b ab") == [0, 1, 5]


def test_sentencepiece_without_byte_tokens_names_the_byte(tmp_path: Path) -> None:
    pairs = dict(SPM)
    pairs["tokenizer.ggml.tokens"] = ["<unk>", "<s>", "</s>", "▁", "a"]
    pairs["tokenizer.ggml.scores"] = [0.0] * 5
    pairs["tokenizer.ggml.token_type"] = [2, 3, 3, 1, 1]
    words = load(tmp_path / "spm.gguf", pairs)
    assert words.encode("a") == [1, 3, 4]
    with pytest.raises(TokenizerError, match="0xC3"):
        words.encode("é")


def test_random_metadata_ends_in_typed_errors_only(tmp_path: Path) -> None:
    source = np.random.default_rng(7)
    texts: list[Any] = ["", "x", "llama", ["a"], ["a", "a"], [""]]
    values = [*texts, 0, 5, 2**31, True, [1, 2], [0.5]]
    errors = []
    for _ in range(300):
        pairs = dict(SPM if source.random() < 0.5 else BPE)
        for key in source.choice(list(pairs)[1:], size=2, replace=False):
            pairs[str(key)] = values[source.integers(len(values))]
        try:
            load(tmp_path / "mutant.gguf", pairs).encode("ab é<s>")
        except CsaqError as error:
            errors.append(str(error))
    assert len(errors) > 200
    assert not any("\n" in error for error in errors)
