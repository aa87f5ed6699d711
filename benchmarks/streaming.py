"""A model streamed layer by layer beside the same with its weights in memory: peaks and bytes.

    OMP_NUM_THREADS=1 python -m benchmarks.streaming --work /tmp/streaming
    python -m benchmarks.streaming --work /tmp/streaming --shape large --limit 1150MiB --observe

A random model is calibrated and converted by two processes, one of them with --max-memory.
Prints one row per process: seconds of the cores over their number, peak memory of the stages
that need most, and what it made. --observe ends after the calibration and compares its
statistics, which takes minutes less for a large model.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.estimates import STORIES
from benchmarks.random_folder import llama_config, write_random_folder
from benchmarks.stage_clock import StageClock, timed_stages
from csaq_export.budget.target import parse_size
from csaq_export.calibrated import Request, convert_calibrated
from csaq_export.guidance import Calibrating, guide
from csaq_export.pipeline import Conversion
from csaq_export.workdir import WorkDir

# n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab
SHAPES = {
    "deep": (20, 512, 1536, 8, 4, 8192),
    "large": (20, 1024, 3328, 16, 8, 16384),
}
CPU = torch.device("cpu")


def made(arguments: argparse.Namespace, limit: int | None, name: str) -> dict[str, Any]:
    """Calibrate, and convert unless --observe; stages and the digest of what came out."""
    folder, work = arguments.work / arguments.shape, arguments.work / name
    calibrating = Calibrating(
        str(STORIES), arguments.nsamples, arguments.seqlen, 0, "cpu", max_memory=limit
    )
    shutil.rmtree(work, ignore_errors=True)
    clock = StageClock(CPU)
    out = arguments.work / f"{name}.gguf"

    def convert() -> None:
        request = Request(calibrating, None, arguments.effort, work_dir=work)
        conversion = Conversion(str(folder), out, arguments.type, force=True)
        convert_calibrated(conversion, request, clock, lambda _: clock("writing"))

    def observe() -> None:
        guide(folder, calibrating, WorkDir(work), clock)

    stages = timed_stages(clock, observe if arguments.observe else convert)
    return {
        "stages": {stage: asdict(taken) for stage, taken in stages.items()},
        "sha256": digest(sorted(work.glob("statistics-*")) if arguments.observe else [out]),
    }


def digest(paths: list[Path]) -> str:
    """Of all bytes of some files."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()


def in_process(arguments: list[str], name: str) -> dict[str, Any]:
    """`made` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.streaming", *arguments, "--part", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(found: dict[str, dict[str, Any]], limits: dict[str, str]) -> None:
    """One row per process."""
    print("| weights | limit | seconds | calibrating MiB | rounding MiB | sha256 |")
    print("|---|---|---|---|---|---|")
    for name, each in found.items():
        stages = each["stages"]
        peaks = [
            max((stages[s]["peak"] for s in group if s in stages), default=0) >> 20
            for group in (("start", "forward", "backward"), ("rounding", "writing"))
        ]
        seconds = sum(stage["seconds"] for stage in stages.values())
        row = (name, limits[name], f"{seconds:.0f}", *map(str, peaks), each["sha256"][:16])
        print(f"| {' | '.join(row)} |")
    first, second = (each["sha256"] for each in found.values())
    print("the same bytes" if first == second else "BYTES DIFFER")


def main() -> None:
    """Make the model, run both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="deep")
    parser.add_argument("--limit", default="800MiB", help="--max-memory of the streamed run")
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--effort", default="fast")
    parser.add_argument("--nsamples", type=int, default=8)
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--observe", action="store_true")
    parser.add_argument("--part", choices=("resident", "streamed"))
    arguments = parser.parse_args()
    if arguments.part is not None:
        limit = None if arguments.part == "resident" else parse_size(arguments.limit)
        print(json.dumps(made(arguments, limit, arguments.part)))
        return
    folder = arguments.work / arguments.shape
    if not (folder / "model.safetensors.index.json").exists():
        write_random_folder(folder, llama_config(*SHAPES[arguments.shape]))
    found = {name: in_process(sys.argv[1:], name) for name in ("resident", "streamed")}
    show(found, {"resident": "", "streamed": arguments.limit})


if __name__ == "__main__":
    main()
