"""Fixtures of the command line's tests: a scripted engine, and a tiny GGUF with random weights."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from csaq_runtime.engine import Timings
from csaq_runtime.tokenizer.disguise import Disguise, disguise_for, fragments_of

CHATTY = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
BOS = "<|endoftext|>"


class LetterVocabulary:
    """One id per character."""

    n_vocab, bos_id, eos_id, add_bos = 0x110000, 0, 0, False

    def __init__(self, chat_template: str | None) -> None:
        self.chat_template = chat_template

    def encode(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def disguise(self, values: object) -> Disguise:
        return disguise_for(fragments_of([]), values)

    def encode_prompt(self, text: str, disguise: Disguise) -> list[int]:
        return self.encode(disguise.reveal(text))

    def decode(self, ids: Sequence[int], keep_special: bool = False) -> str:
        return "".join(map(chr, filter(None, ids)))

    def piece(self, id: int) -> str:
        return chr(id)

    def stream(self) -> SimpleNamespace:
        return SimpleNamespace(push=chr, flush=lambda: "")


@dataclass
class ScriptedEngine:
    """Replies with the given texts in turn and remembers the prompts it was asked."""

    replies: list[str]
    n_ctx: int = 1000
    chat_template: str | None = CHATTY
    prompts: list[str] = field(default_factory=list)
    timings: Timings = field(default_factory=lambda: Timings(10, 0.5, 4, 2.0))

    def __post_init__(self) -> None:
        self.vocabulary = LetterVocabulary(self.chat_template)

    def generate(
        self, prompt: Sequence[int], sampling: object, n_predict: int
    ) -> Iterator[SimpleNamespace]:
        self.prompts.append(self.vocabulary.decode(prompt))
        for letter in self.replies.pop(0)[:n_predict]:
            yield SimpleNamespace(token_id=ord(letter), n_past=0)


@pytest.fixture
def scripted() -> type[ScriptedEngine]:
    return ScriptedEngine


Csaq = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def csaq() -> Csaq:
    """Run the command in a process of its own, standard input empty unless given."""

    def run(
        *arguments: object, stdin: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "csaq_cli", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "NO_COLOR": "1", **(env or {})},
        )

    return run


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama: bytes as tokens, a chat template, 128 tokens of context."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny(path)
    return path


def write_tiny(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer)
    random = np.random.default_rng(7)
    for name, shape in _shapes().items():
        values = random.standard_normal(shape, np.float32) * 0.2
        writer.add_tensor(name, np.ones(shape, np.float32) if len(shape) == 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: gguf.GGUFWriter) -> None:
    tokens = [BOS, *sorted(ByteLevel.alphabet()), "Ġt"]
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * 257)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHATTY)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (258, 64),
        "output_norm.weight": (64,),
    }
    for layer in range(2):
        block = {
            "attn_q": (64, 64),
            "attn_k": (32, 64),
            "attn_v": (32, 64),
            "attn_output": (64, 64),
        }
        block |= {"ffn_gate": (96, 64), "ffn_up": (96, 64), "ffn_down": (64, 96)}
        block |= {"attn_norm": (64,), "ffn_norm": (64,)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes
