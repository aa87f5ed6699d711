"""Token ids equal llama.cpp's on random text: every golden vocabulary, every pre-tokenizer."""

import struct
from functools import lru_cache
from pathlib import Path

import pytest

from csaq_runtime.gguf import open_gguf
from csaq_runtime.tokenizer import Vocabulary, load_vocabulary
from csaq_runtime.tokenizer.pre_tokenizers import pre_tokenizer_names
from tests.parity import oracle
from tests.runtime.random_text import random_texts

FOLDER = Path(__file__).resolve().parents[2].parent / "shared/data/tokenizers/ggml-vocab"
NAMES = ("deepseek-coder", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")
# One name of every way of cutting, and those whose name switches something more.
PRE_NAMES = sorted({names[0] for names in pre_tokenizer_names().values()} | {"glm4", "dbrx"})


def path_of(name: str) -> Path:
    return FOLDER / f"ggml-vocab-{name}.gguf"


@lru_cache(maxsize=1)
def vocabulary(path: Path) -> Vocabulary:
    with open_gguf(path) as file:
        return load_vocabulary(file)


def assert_ids_agree(path: Path, seed: int, count: int, parse_special: bool) -> None:
    words = vocabulary(path)
    specials = [words.piece(id) for id in sorted(words.eog_ids)]
    texts = random_texts(seed, count, specials)
    for text, expected in zip(texts, oracle.tokenize(path, texts, parse_special), strict=True):
        assert words.encode(text, parse_special=parse_special) == expected, repr(text)


@pytest.mark.parametrize("parse_special", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_random_text_gets_the_ids_of_llama_cpp(name: str, parse_special: bool) -> None:
    assert_ids_agree(path_of(name), NAMES.index(name), 300, parse_special)


@pytest.mark.parametrize("pre", PRE_NAMES)
def test_every_pre_tokenizer_cuts_as_llama_cpp_does(pre: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(with_pre_tokenizer(path_of("gpt-2").read_bytes(), pre))
    assert_ids_agree(path, PRE_NAMES.index(pre), 150, parse_special=False)


def with_pre_tokenizer(data: bytes, pre: str) -> bytes:
    """The file without tensors `data`, its string `tokenizer.ggml.pre` replaced."""
    key = b"tokenizer.ggml.pre"
    at = data.index(key) + len(key) + 4
    (length,) = struct.unpack_from("<Q", data, at)
    return data[:at] + struct.pack("<Q", len(pre)) + pre.encode() + data[at + 8 + length :]
