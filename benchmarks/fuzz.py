"""A longer run of the mutation tests: `python -m benchmarks.fuzz [--mutants N] [--seed S]`.

Nine tenths are read in full, one tenth run for a token with bounds checks (tests/malformed).
Any other outcome than a value or a typed error ends the run with the seed that repeats it.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.malformed.test_gguf_fuzz import read_mutants, run_mutants

N_CHUNK = 50_000


def main() -> None:
    """Read and run mutants chunk by chunk, printing counts after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    started, counts = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for chunk in range(-(-asked.mutants // N_CHUNK)):
            seed, n_run = asked.seed * 1_000_000 + chunk, N_CHUNK // 10
            counts["read"] += N_CHUNK - n_run
            counts["opened"] += read_mutants(Path(folder) / "mutant.gguf", seed, N_CHUNK - n_run)
            counts.update(run_mutants(seed, n_run, Path(folder)))
            seconds = time.monotonic() - started
            print(f"{(chunk + 1) * N_CHUNK:,} mutants, {seconds:.0f} s: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
