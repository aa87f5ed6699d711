"""AutoRound's GGUF files of a model, for `benchmarks/quality.py --rival`.

Runs in an environment of AutoRound's own (pip install torch==2.13.0 auto-round gguf sentencepiece):

    python -P benchmarks/autoround.py MODEL --calib calib.txt --out folder --types q4_k_m

Writes `folder/TYPE-ITERS.gguf` and prints a line of JSON for each: seconds of the clock and of
the processor, bytes. 0 iterations is its RTN mode, 200 its tuned one. The calibration text is
cut into pieces longer than a window, of which AutoRound reads the beginning of as many as it is
asked for. (-P: `benchmarks/kernels.py` is not the library of that name that transformers looks
for.)
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

# Characters that surely hold so many tokens of the demo model's small vocabulary.
PIECE_CHARS, PIECE_TOKENS = 1400, 256


def write_dataset(text: str, seq_len: int, path: Path) -> None:
    """The text as AutoRound reads local data: a list of strings."""
    size = -(-seq_len * PIECE_CHARS // PIECE_TOKENS)
    pieces = [text[start : start + size] for start in range(0, len(text) - size, size)]
    path.write_text(json.dumps(pieces))


def quantize(args: argparse.Namespace, kind: str, iters: int, dataset: Path) -> dict[str, object]:
    """Make one file; what it took."""
    out = args.out / f"{kind}-{iters}.gguf"
    began, cores = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        rounder = AutoRound(
            str(args.model),
            scheme=f"gguf:{kind}",
            iters=iters,
            dataset=str(dataset),
            nsamples=args.nsamples,
            seqlen=args.seqlen,
            device_map=args.device,
            enable_torch_compile=False,
        )
        rounder.quantize_and_save(folder, format=f"gguf:{kind}")
        (made,) = Path(folder).rglob("*.gguf")
        shutil.move(made, out)
    seconds, processor = time.perf_counter() - began, time.process_time() - cores
    found = {"type": kind, "iters": iters, "seconds": seconds, "processor_seconds": processor}
    return {**found, "bytes": out.stat().st_size}


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
    parser.add_argument("--device", default="cpu", help="as AutoRound's device_map")
    args = parser.parse_args()
    name_pre_tokenizer(args.pre)
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = args.out / "calibration.json"
    write_dataset(args.calib.read_text(encoding="utf-8"), args.seqlen, dataset)
    for kind in args.types:
        for iters in args.iters:
            print(json.dumps(quantize(args, kind, iters, dataset)), flush=True)


if __name__ == "__main__":
    main()
