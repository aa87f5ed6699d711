"""How much memory running a model takes, and how much there is: asked before loading."""

import os
from pathlib import Path

from csaq_runtime.cache import cache_bytes
from csaq_runtime.errors import ResourceError
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.heads import head_pad, padded
from csaq_runtime.hparams import HParams, read_hparams

WORKING_BYTES = 64 * 2**20
"""Python, NumPy, compiled kernels and small buffers."""

CGROUP = Path("/sys/fs/cgroup")


def estimated_memory(
    file: GGUFFile, n_ctx: int, cache_type: str = "f16", n_batch: int = 512, n_sequence: int = 1
) -> int:
    """Bytes that an engine on `file` needs at a context of `n_ctx`: weights, caches, buffers.

    Does not count the file's own pages, which the system may drop at any time.
    """
    hparams = read_hparams(file)
    weights = sum(info.n_bytes for info in file.tensors.values())
    rope = 4 * n_ctx * head_pad(hparams)
    batch = 4 * n_batch * _floats_per_token(hparams)
    caches = n_sequence * cache_bytes(hparams, n_ctx, cache_type)
    return weights + caches + rope + batch + WORKING_BYTES


def _floats_per_token(hparams: HParams) -> int:
    """Activations of one token: buffers of `Stepper`, with packed inputs as large as float32."""
    heads = (2 * hparams.n_head + 2 * hparams.n_head_kv) * head_pad(hparams)
    widest = max(hparams.n_embd, hparams.n_ff, hparams.n_head * hparams.head_dim)
    return 2 * padded(hparams.n_embd) + heads + 2 * padded(hparams.n_ff) + padded(widest)


def available_memory() -> int | None:
    """Bytes that can still be had without swapping; None where the system does not say."""
    limits = [limit for limit in (_system_available(), _cgroup_available()) if limit is not None]
    return min(limits, default=None)


def _system_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        return _physical()
    return _physical()


def _physical() -> int | None:
    """All memory of the machine, where nothing better is known."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_available() -> int | None:
    """What a container's limit leaves; None outside of one."""
    try:
        limit = int((CGROUP / "memory.max").read_text())
        return max(limit - int((CGROUP / "memory.current").read_text()), 0)
    except (OSError, ValueError):
        return None


def check_memory(
    file: GGUFFile, n_ctx: int, cache_type: str, n_batch: int, n_sequence: int = 1
) -> None:
    """Raise ResourceError if `file` cannot be run in the memory that is left."""
    needed = estimated_memory(file, n_ctx, cache_type, n_batch, n_sequence)
    available = available_memory()
    if available is not None and needed > available:
        raise ResourceError(
            f"{file.path}: needs about {needed / 2**30:.1f} GiB of memory,"
            f" {available / 2**30:.1f} GiB are available",
            "try a smaller context (n_ctx) or a file with fewer bits per weight",
        )
