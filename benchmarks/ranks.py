"""One process beside two ranks of torchrun, a core each: seconds of the clock, and their bytes.

quiet python -m benchmarks.ranks --work /tmp/ranks
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.estimates import STORIES
from benchmarks.random_folder import DEMO

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def converted(n_rank: int, arguments: argparse.Namespace) -> tuple[float, str]:
    """Seconds from start to end, and the digest of the file."""
    out, work = arguments.work / f"{n_rank}.gguf", arguments.work / "stages"
    shutil.rmtree(work, ignore_errors=True)
    start = [sys.executable] if n_rank == 1 else [*TORCHRUN, str(n_rank)]
    command = [*start, "-m", "csaq_cli", "convert", str(arguments.model), "--type", arguments.type,
               "--calib", str(STORIES), "--nsamples", str(arguments.nsamples),
               "--seqlen", str(arguments.seqlen), "--effort", arguments.effort,
               "--device", "cpu", "--work-dir", str(work),
               "-o", str(out), "--force", "-q"]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
                   stdout=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - began, hashlib.sha256(out.read_bytes()).hexdigest()


def main() -> None:
    """Convert twice and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--nsamples", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--effort", default="fast")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    print("| ranks | seconds | times as fast | sha256 |\n|---|---|---|---|")
    alone = 0.0
    for n_rank in (1, 2):
        seconds, digest = converted(n_rank, arguments)
        alone = alone or seconds
        print(f"| {n_rank} | {seconds:.1f} | {alone / seconds:.2f} | {digest[:16]} |", flush=True)


if __name__ == "__main__":
    main()
