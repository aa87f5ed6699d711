"""What the commands of the docs find in their folder: tiny models, short texts, stand-in programs.

A command keeps the words of the page; the files it names are put there before it runs.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from csaq_export.packed_folder import convert_packed
from csaq_export.pipeline import Conversion, convert
from tests.export.models import TEXT, build_model, byte_level_tokenizer
from tests.export.packed_models import packed_model

LLAMA_BENCH = """#!/bin/sh
echo '[{"avg_ts": 100.0}]'
"""
# Copies the baseline under the name it is asked for: what is measured is not the point here.
LLAMA_QUANTIZE = """#!/bin/sh
[ "$1" = --imatrix ] && shift 2
cp "$1" "$2"
"""
# Rows of 256 weights, so that every type applies; a name of the hub is a folder of that name here.
MODELS = ("./my-model", "Qwen/Qwen3-0.6B")
TEXTS = ("my.txt", "wiki.test.raw", "question.txt", "notes.txt")
FOLDERS = ("models/",)
# A task's questions: a letter of four choices.
TASKS = ("questions.csv",)
GGUFS = (
    "model.gguf", "old.gguf", "new.gguf", "Qwen3-0.6B-Q4_K_M.gguf",
    "my-F16.gguf", "my-BF16.gguf", "my-Q8_0.gguf", "my-Q4_K_M.gguf", "rows.gguf",
)  # fmt: skip
PROGRAMS = {"./llama-bench": LLAMA_BENCH, "llama.cpp/build/bin/llama-quantize": LLAMA_QUANTIZE}


class StandIns:
    """Made once: one model of one layer as a folder, as F16 and as Q4_K_M."""

    def __init__(self, home: Path) -> None:
        self.model = home / "model"
        # Calibrating commands leave their work here for the next: model and text are always alike.
        self.home = home
        shape = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
        build_model("llama", **shape).save_pretrained(self.model)
        byte_level_tokenizer("llama-bpe").save_pretrained(self.model)
        self.files = {kind: home / f"{kind}.gguf" for kind in ("F16", "Q4_K_M")}
        for kind, path in self.files.items():
            convert(Conversion(str(self.model), path, kind))

    def provide(self, word: str, folder: Path) -> None:
        """Put what `word` of a command names into `folder`, if it is known and not there yet."""
        for name in _named(word):
            path = folder / name
            if path.exists() or not self._known(name):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            self._make(name, path)

    def _known(self, name: str) -> bool:
        return name in (*MODELS, *TEXTS, *TASKS, *FOLDERS, *GGUFS, *PROGRAMS)

    def _make(self, name: str, path: Path) -> None:
        if name in MODELS:
            shutil.copytree(self.model, path)
        elif name in TEXTS:
            path.write_text(" ".join(TEXT) if name != "question.txt" else "Where is the dog?\n")
        elif name in TASKS:
            path.write_text("Is it big?,yes,no,red,cat,B\n" * 40)
        elif name in FOLDERS:
            path.mkdir()
            self._make("model.gguf", path / "model.gguf")
        elif name in PROGRAMS:
            path.write_text(PROGRAMS[name])
            path.chmod(0o755)
        elif name == "rows.gguf":
            self._make_rows(path)
        else:
            shutil.copy(self.files["F16" if "16" in name else "Q4_K_M"], path)

    def _make_rows(self, path: Path) -> None:
        """A file of the rows layout."""
        packed, _ = packed_model("llama", num_hidden_layers=1)
        packed.save_pretrained(self.home / "packed")
        byte_level_tokenizer("llama-bpe").save_pretrained(self.home / "packed")
        convert_packed(Conversion(str(self.home / "packed"), path, ""))


def _named(word: str) -> Iterator[str]:
    """Files that a word stands for: itself, two for `*.gguf`, a program in a folder of programs."""
    if word == "*.gguf":
        yield from ("my-Q4_K_M.gguf", "my-Q8_0.gguf")
    elif word == "llama.cpp/build/bin":
        yield f"{word}/llama-quantize"
    else:
        yield word
