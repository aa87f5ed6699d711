"""Vocabularies from GGUF metadata: llama.cpp's golden ids, and text that survives the way back."""

import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csaq_runtime.errors import TokenizerError
from csaq_runtime.gguf import open_gguf
from csaq_runtime.tokenizer import Vocabulary, load_vocabulary
from csaq_runtime.tokenizer.byte_bpe import ALL_SHORT, LEAST_SHORT, SHORT_TEXT

FOLDER = Path(__file__).resolve().parents[2].parent / "shared/data/tokenizers/ggml-vocab"
NAMES = ("deepseek-coder", "falcon", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def path_of(name: str) -> Path:
    return FOLDER / f"ggml-vocab-{name}.gguf"


@cache
def vocabulary(name: str) -> Vocabulary:
    with open_gguf(path_of(name)) as file:
        return load_vocabulary(file)


def golden(name: str) -> list[tuple[str, list[int]]]:
    texts = Path(f"{path_of(name)}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{path_of(name)}.out").read_text().split("\n")
    return [
        (text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_of_llama_cpp(name: str) -> None:
    cases = golden(name)
    assert len(cases) == 47
    for text, ids in cases:
        assert vocabulary(name).encode(text, add_special=False, parse_special=False) == ids


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "qwen2"])
def test_a_part_of_the_vocabulary_gives_the_ids_of_the_whole(name: str) -> None:
    """Short texts are encoded with the tokens in them, long ones with all."""
    texts = [text for text, _ in golden(name)]
    parts, whole = (load_vocabulary(open_gguf(path_of(name))) for _ in range(2))
    whole.encode("a" * (ALL_SHORT + 1))
    assert sum(max(len(text), LEAST_SHORT) for text in texts) < ALL_SHORT
    for text in texts:
        assert len(text) <= SHORT_TEXT
        assert parts.encode(text) == whole.encode(text)


@pytest.mark.parametrize("name", NAMES)
def test_golden_texts_survive_decoding(name: str) -> None:
    for text, ids in golden(name):
        assert vocabulary(name).decode(ids) == text


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)  # the first example loads the vocabulary
@given(text=ANY_TEXT)
def test_any_text_survives_encode_and_decode(name: str, text: str) -> None:
    words = vocabulary(name)
    # ▁ is how SentencePiece writes a space, it cannot come back as itself.
    text = text.replace("▁", " ")
    if name == "falcon":
        # It has no token for some control bytes; they vanish, as in llama.cpp.
        text = "".join(character for character in text if character.isprintable())
    assert words.decode(words.encode(text, parse_special=False)) == text


@pytest.mark.parametrize("name", ["qwen2", "llama-spm"])
@settings(deadline=None)  # the first example loads the vocabulary
@given(text=ANY_TEXT)
def test_stream_never_shows_half_a_character(name: str, text: str) -> None:
    words = vocabulary(name)
    stream = words.stream()
    pieces = [stream.push(id) for id in words.encode(text, parse_special=False)]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    whole = "".join(pieces) + stream.flush()
    # A stream keeps the space that SentencePiece puts before the first word.
    spaced = f" {text}".replace("▁", " ") if text else ""
    assert whole == (spaced if name == "llama-spm" else text)


def test_flush_shows_what_stayed_incomplete() -> None:
    words = vocabulary("llama-spm")
    stream = words.stream()
    first_byte = words.encode("🧿", add_special=False)[1]
    assert stream.push(first_byte) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize(
    ("name", "bos", "eos", "eog", "add_bos"),
    [
        ("qwen2", 151643, 151643, {"<|endoftext|>", "<|im_end|>", "</s>"}, False),
        ("llama-bpe", 128000, 128001, {"<|end_of_text|>", "<|eot_id|>"}, True),
        ("llama-spm", 1, 2, {"</s>"}, True),
        ("phi-3", 1, 32000, {"</s>", "<|end|>", "<|endoftext|>"}, True),
    ],
)
def test_special_ids(name: str, bos: int, eos: int, eog: set[str], add_bos: bool) -> None:
    words = vocabulary(name)
    assert (words.bos_id, words.eos_id, words.add_bos) == (bos, eos, add_bos)
    assert {words.piece(id) for id in words.eog_ids} == eog


def test_control_tokens_parse_only_on_request() -> None:
    words = vocabulary("llama-bpe")
    text = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    ids = words.encode(text, add_special=False)
    assert ids == [128006, 882, 128007, 271, 13347, 128009]
    assert words.decode(ids) == "user\n\nHi"
    assert words.decode(ids, keep_special=True) == text
    plain = words.encode(text, add_special=False, parse_special=False)
    assert max(plain) < 128000
    assert words.decode(plain) == text


def test_bos_comes_first_where_the_model_wants_it() -> None:
    assert vocabulary("llama-spm").encode("") == [1]
    assert vocabulary("llama-spm").encode("", add_special=False) == []
    assert vocabulary("qwen2").encode("") == []


def test_lone_surrogates_become_replacement_characters() -> None:
    words = vocabulary("qwen2")
    assert words.encode("a\udcffb") == words.encode("a\ufffdb")


@pytest.mark.parametrize("id", [-1, 151936, 2**40])
def test_ids_outside_the_vocabulary_are_refused(id: int) -> None:
    with pytest.raises(TokenizerError, match=str(id)):
        vocabulary("qwen2").decode([id])
    with pytest.raises(TokenizerError, match=str(id)):
        vocabulary("qwen2").stream().push(id)


@pytest.mark.parametrize("name", ["qwen2", "llama-spm"])
def test_long_text_takes_linear_time(name: str) -> None:
    text = "The quick brown fox, number 1234, jumps over the lazy dog.\n" * 2000
    started = time.monotonic()
    ids = vocabulary(name).encode(text)
    assert time.monotonic() - started < 5
    assert vocabulary(name).decode(ids) == text


def test_long_word_without_spaces_takes_bounded_time() -> None:
    text = "ab" * 50_000
    started = time.monotonic()
    assert vocabulary("llama-spm").decode(vocabulary("llama-spm").encode(text)) == text
    assert time.monotonic() - started < 10


def test_import_is_light() -> None:
    code = (
        "import sys, csaq_runtime.tokenizer, csaq_runtime.template;"
        "print([m for m in ('numba', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
