"""Our converter against llama.cpp's convert_hf_to_gguf.py: every key and tensor of a folder.

    python -m benchmarks.compare_converter --peer /tmp/peers/llama.cpp

Makes tiny random models of every family and with every kind of tokenizer (two with the
real GPT-2 and Qwen2 vocabularies), converts each with both and prints what differs;
docs/conversion-differences.md explains the lines. The peer knows a pre-tokenizer by a
hash of one encoded text, which only published vocabularies have; for the others it is
told the name.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from csaq_export.pipeline import Conversion, convert
from csaq_runtime.gguf import GGUFFile, open_gguf
from tests.export.models import (
    CONFIGS,
    build_model,
    byte_level_tokenizer,
    llama_bpe_tokenizer,
    save_folder,
    write_sentencepiece,
)

REAL_TOKENIZERS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokenizers"
TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "Q8_0": "q8_0"}
PEER_PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import conversion.base, convert_hf_to_gguf
if name := sys.argv[2]:
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: name
sys.argv = ["convert_hf_to_gguf.py", *sys.argv[3:]]
convert_hf_to_gguf.main()
"""
CARD = """---
license: apache-2.0
language: [en, de]
tags: [story]
base_model: org/Tiny-1B
datasets: [org/stories]
---
"""


def family(folder: Path, kind: str) -> str:
    """A family with a small byte-level vocabulary; returns its pre-tokenizer's name."""
    save_folder(folder, kind, torch.bfloat16)
    (folder / "README.md").write_text(CARD)
    return "qwen2" if kind.startswith("qwen") else "llama-bpe"


def byte_level(folder: Path, pre: str) -> str:
    """A llama with the splitting rules called `pre`."""
    build_model("llama").save_pretrained(folder)
    byte_level_tokenizer(pre).save_pretrained(folder)
    return pre


def real(folder: Path, name: str, kind: str, n_vocab: int) -> str:
    """A published vocabulary under a tiny model; the peer recognises it itself."""
    build_model(kind, vocab_size=n_vocab).bfloat16().save_pretrained(folder)
    for file in (REAL_TOKENIZERS / name).iterdir():
        shutil.copy(file, folder)
    return ""


def sentencepiece(folder: Path) -> str:
    """tokenizer.model with added tokens."""
    build_model("llama").save_pretrained(folder)
    write_sentencepiece(folder)
    return ""


def llama_bpe(folder: Path) -> str:
    """tokenizer.json with byte fallback."""
    build_model("llama", vocab_size=450).save_pretrained(folder)
    llama_bpe_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return ""


CASES: dict[str, Callable[[Path], str]] = {
    **{kind: lambda folder, kind=kind: family(folder, kind) for kind in CONFIGS},
    "gpt-2 rules": lambda folder: byte_level(folder, "gpt-2"),
    "smollm rules": lambda folder: byte_level(folder, "smollm"),
    "real gpt-2": lambda folder: real(folder, "gpt2", "llama", 50304),
    "real qwen2": lambda folder: real(folder, "qwen2", "qwen2", 151936),
    "sentencepiece": sentencepiece,
    "llama tokenizer.json": llama_bpe,
}


def run_peer(peer: Path, folder: Path, pre: str, out_type: str, out: Path) -> None:
    """Convert with convert_hf_to_gguf.py; raises with its last lines if it fails."""
    command = [sys.executable, "-c", PEER_PROGRAM, str(peer), pre, str(folder)]
    done = subprocess.run(
        [*command, "--outtype", out_type, "--outfile", str(out)], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{folder.name}: the peer failed: {done.stderr[-1500:]}")


def differences(ours: GGUFFile, theirs: GGUFFile) -> Iterator[str]:
    """One line per key or tensor that is not the same in both files."""
    for key in sorted(ours.metadata.keys() | theirs.metadata.keys()):
        a, b = ours.metadata.get(key), theirs.metadata.get(key)
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            yield f"{key}: ours {_short(a)}, peer {_short(b)}"
    for name in sorted(ours.tensors.keys() | theirs.tensors.keys()):
        ours_info, peer_info = ours.tensors.get(name), theirs.tensors.get(name)
        if ours_info is None or peer_info is None:
            yield f"tensor {name}: only {'peer' if ours_info is None else 'ours'}"
        elif (ours_info.shape, ours_info.type) != (peer_info.shape, peer_info.type):
            yield f"tensor {name}: ours {ours_info}, peer {peer_info}"
        elif not np.array_equal(ours.data(name), theirs.data(name)):
            yield f"tensor {name}: bytes differ"


def _short(value: object) -> str:
    shown = "absent" if value is None else repr(value).replace("\n", " ")
    return shown if len(shown) < 60 else f"{shown[:57]}…"


def compare(case: str, peer: Path, folder: Path) -> None:
    """Convert one case with both and print what differs; the first case to every plain type."""
    folder.mkdir()
    pre = CASES[case](folder)
    types = TYPES if case == "llama" else {"F16": "f16"}
    for name, out_type in types.items():
        ours, theirs = folder.parent / "ours.gguf", folder.parent / "peer.gguf"
        convert(Conversion(str(folder), ours, name, force=True))
        run_peer(peer, folder, pre, out_type, theirs)
        with open_gguf(ours) as a, open_gguf(theirs) as b:
            lines = list(differences(a, b))
            print(f"\n{case}, {name}: {len(a.metadata)} keys, {len(a.tensors)} tensors", end="")
        print("".join(f"\n  {line}" for line in lines) or ": identical", flush=True)


def main() -> None:
    """Compare all cases, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, default=Path("/tmp/peers/llama.cpp"))
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for case in args.cases or CASES:
            compare(case, args.peer, Path(work, case.replace(" ", "-")))


if __name__ == "__main__":
    main()
