"""One `Trial` on llama.cpp's `llama-bench`, in a process of its own → tokens per second."""

import json
import subprocess
from pathlib import Path

from csaq_cli.bench_trial import Trial
from csaq_runtime.errors import UsageError

VARIANTS = ("1", "0")
"""Values of `--repack`: llama.cpp is faster now with, now without it. The better one counts."""


def peer_rate(program: Path, model: Path, trial: Trial, cache_type: str, repack: str) -> float:
    """Tokens per second of one repetition (after llama-bench's own warm-up).

    Raises UsageError if the program fails or prints something else than its JSON.
    """
    # A bare name would be looked for on PATH, not in this folder.
    command = [
        str(program.absolute()),
        "-m",
        str(model),
        "-r",
        "1",
        "-o",
        "json",
        "--repack",
        repack,
    ]
    command += ["-p", str(trial.n_prompt), "-n", str(trial.n_gen), "-d", str(trial.n_depth)]
    command += ["-t", str(trial.n_threads), "-ctk", cache_type, "-ctv", cache_type]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"{program}: cannot be run ({error.strerror})") from error
    if done.returncode:
        raise UsageError(f"{program}: failed: {_last_line(done.stderr)}")
    return _rate(done.stdout, program)


def _rate(text: str, program: Path) -> float:
    try:
        (result,) = json.loads(text)
        return float(result["avg_ts"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{program}: did not print llama-bench's JSON") from error


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
