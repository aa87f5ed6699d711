"""From the start of a process to its first token: `python benchmarks/startup.py --vs PROGRAM`.

Writes a file of Qwen2.5-0.5B's shape and vocabulary size at Q4_K_M with random weights, and lets
`csaq run` and llama-completion answer a prompt of 16 tokens in turn, the file in the page cache.
Then once with an empty kernel cache, standard error being a terminal: what is shown meanwhile.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "runtime"), str(ROOT / "cli"), str(ROOT)]

from benchmarks.random_model import MODELS, write_random  # noqa: E402

PROMPT = "1234567890123456"
"""16 tokens: digits merge with nothing."""

WITHOUT_BYTE_CODE = "PYTHONDONTWRITEBYTECODE"

SHOWN = 4
"""First and last texts of a cold start's progress line."""


def main() -> None:
    """Print a Markdown table and what a cold start shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vs", type=Path, help="a llama-completion")
    parser.add_argument("-r", "--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.5B-Q4_K_M.gguf"
        write_random(path, MODELS["0.5B"], "Q4_K_M", has_text=True)
        report_cold(path, Path(folder) / "cache")
        report_warm(path, arguments.vs, arguments.repetitions)


def report_warm(path: Path, peer: Path | None, n_repeat: int) -> None:
    """Print the medians of both programs, in turn, and whether Numba was imported."""
    commands = {"csaq run": our_command(path)}
    if peer is not None:
        commands["llama-completion"] = peer_command(path, peer)
    for command in commands.values():
        first_token(command, os.environ)
    rounds = [
        [first_token(command, os.environ) for command in commands.values()] for _ in range(n_repeat)
    ]
    print("| program | median s | lowest … highest | load |\n|---|---|---|---|")
    for name, seconds in zip(commands, zip(*rounds, strict=True), strict=True):
        spread = f"{min(seconds):.2f} … {max(seconds):.2f}"
        median = statistics.median(seconds)
        print(f"| {name}, warm | {median:.2f} | {spread} | {os.getloadavg()[0]:.1f} |")
    print(f"\nNumba imported on a warm cache: {'yes' if imports_numba(path) else 'no'}")


def report_cold(path: Path, cache: Path) -> None:
    """Print the time with an empty kernel cache and the texts of the progress line."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "CSAQ_CACHE_DIR": str(cache)}
    seconds = first_token(our_command(path), environment, writer)
    os.close(writer)
    shown = os.read(reader, 1 << 16).decode().replace("\x1b[K", "").split("\r")
    os.close(reader)
    steps = list(dict.fromkeys(text.strip() for text in shown if text.strip()))
    print(f"csaq run, empty kernel cache: {seconds:.1f} s, load {os.getloadavg()[0]:.1f}; shown:")
    print("".join(f"    {step}\n" for step in [*steps[:SHOWN], "…", *steps[-SHOWN:]]))


def our_command(path: Path) -> list[str]:
    """`csaq run` for one token."""
    python = [sys.executable, "-m", "csaq_cli", "run"]
    return [*python, str(path), "-p", PROMPT, "-n", "1", "--temp", "0"]


def peer_command(path: Path, peer: Path) -> list[str]:
    """The same for llama-completion, which would repeat the prompt."""
    options = ["-n", "1", "--temp", "0", "-no-cnv", "--no-display-prompt"]
    return [str(peer), "-m", str(path), "-p", PROMPT, "-t", str(os.cpu_count()), *options]


def first_token(
    command: Sequence[str], environment: Mapping[str, str], errors: int = subprocess.DEVNULL
) -> float:
    """Seconds from the start of a process to its first byte of output."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, env=_with_path(environment)
    ) as child:
        assert child.stdout is not None
        text = child.stdout.read(1)
        seconds = time.perf_counter() - started
        child.stdout.read()
    if child.returncode or not text:
        sys.exit(f"{command[0]} failed: {child.returncode}")
    return seconds


def imports_numba(path: Path) -> bool:
    """Whether a warm `csaq run` imports Numba."""
    command = [sys.executable, "-X", "importtime", *our_command(path)[1:]]
    result = subprocess.run(
        command, env=_with_path(os.environ), capture_output=True, text=True, check=True
    )
    return any(line.split("|")[-1].strip() == "numba" for line in result.stderr.splitlines())


def _with_path(environment: Mapping[str, str]) -> dict[str, str]:
    """So that a checkout runs that is not installed, byte code being kept as for one that is."""
    kept = {name: value for name, value in environment.items() if name != WITHOUT_BYTE_CODE}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path)}


if __name__ == "__main__":
    main()
