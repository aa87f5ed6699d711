"""AutoRound's GGUF files of a model, for `benchmarks/quality.py --rival`.

Runs in an environment of AutoRound's own (pip install torch==2.13.0 auto-round gguf sentencepiece):

    python -P benchmarks/autoround.py MODEL --calib calib.txt --out folder --types q4_k_m

Writes `folder/TYPE-ITERS.gguf` and prints processor seconds; 0 iterations is its RTN mode,
200 its tuned one. The calibration text is cut into pieces longer than a window, of which
AutoRound reads the beginning of as many as it is asked for. (-P: `benchmarks/kernels.py` is not
the library of that name that transformers looks for.)
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from auto_round import AutoRound  # type: ignore[import-not-found]
from auto_round.export.export_to_gguf import (  # type: ignore[import-not-found]
    llama_cpp_conversion as converter,
)

# Characters that surely hold a window of 256 tokens of the demo model's small vocabulary.
PIECE_CHARS = 1400


def write_dataset(text: str, path: Path) -> None:
    """The text as AutoRound reads local data: a list of strings."""
    starts = range(0, len(text) - PIECE_CHARS, PIECE_CHARS)
    path.write_text(json.dumps([text[start : start + PIECE_CHARS] for start in starts]))


def quantize(args: argparse.Namespace, kind: str, iters: int, dataset: Path) -> float:
    """Make one file; processor seconds."""
    out = args.out / f"{kind}-{iters}.gguf"
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        rounder = AutoRound(
            str(args.model),
            scheme=f"gguf:{kind}",
            iters=iters,
            dataset=str(dataset),
            nsamples=args.nsamples,
            seqlen=args.seqlen,
            device_map="cpu",
            enable_torch_compile=False,
        )
        rounder.quantize_and_save(folder, format=f"gguf:{kind}")
        (made,) = Path(folder).rglob("*.gguf")
        shutil.move(made, out)
    return time.process_time() - began


def name_pre_tokenizer(pre: str) -> None:
    """Tell its converter what it finds by a hash, and for published vocabularies only."""
    root, source = converter._available_conversion_roots()[0]
    module = converter._import_conversion_from(root, source).module
    module.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre


def main() -> None:
    """Make the files, one type after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=["q2_k_s", "q3_k_s", "q4_k_m", "q6_k"])
    parser.add_argument("--iters", nargs="+", type=int, default=[0, 200])
    parser.add_argument("--nsamples", type=int, default=128)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--pre", default="qwen2", help="the vocabulary's pre-tokenizer")
    args = parser.parse_args()
    name_pre_tokenizer(args.pre)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = args.out / "calibration.json"
    write_dataset(args.calib.read_text(encoding="utf-8"), dataset)
    for kind in args.types:
        for iters in args.iters:
            print(kind, iters, f"{quantize(args, kind, iters, dataset):.0f} s", flush=True)


if __name__ == "__main__":
    main()
