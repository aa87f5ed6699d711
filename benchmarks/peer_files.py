"""llama.cpp's programs → the files that ours are compared with, and what they cost to make."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PLAIN, GUIDED = "llama-quantize", "llama-quantize + imatrix"
# Presets that llama-quantize refuses to make without an imatrix.
NEEDS_IMATRIX = ("IQ1", "IQ2", "IQ3_XXS", "Q2_K_S")


@dataclass(frozen=True)
class Made:
    """A file, who made it for which preset, and its cost: processor time, peak resident memory."""

    preset: str
    maker: str
    path: Path
    seconds: float
    peak_mib: float


def run(*command: object) -> tuple[float, float]:
    """Run quietly; processor seconds and peak MiB. Stops with the program's output if it fails.

    Processor time, as other programs on the machine change it less than the time of the clock.
    """
    with subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        said = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[0]} failed:\n{said[-2000:].decode()}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**10


def make_imatrix(tools: Path, base: Path, calib: Path, out: Path, n_ctx: int, n: int) -> Made:
    """Run llama-imatrix over the first `n` windows of the calibration text."""
    partial = out.with_suffix(".partial")
    shape = ("-c", n_ctx, "--chunks", n, "-ngl", 0, "-t", 1)
    cost = run(tools / "llama-imatrix", "-m", base, "-f", calib, "-o", partial, *shape)
    partial.rename(out)
    return Made("", "llama-imatrix", out, *cost)


def quantized(tools: Path, base: Path, imatrix: Path | None, preset: str, folder: Path) -> Made:
    """Run llama-quantize."""
    maker = PLAIN if imatrix is None else GUIDED
    out = folder / f"{preset}-{'plain' if imatrix is None else 'imatrix'}.gguf"
    guide = [] if imatrix is None else ["--imatrix", imatrix]
    return Made(
        preset,
        maker,
        out,
        *run(tools / "llama-quantize", *guide, base, out, preset, 1),
    )


def needs_imatrix(preset: str) -> bool:
    """Whether llama-quantize makes `preset` only with an imatrix."""
    return preset.startswith(NEEDS_IMATRIX)
