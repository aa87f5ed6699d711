"""How much memory running a model takes: compared with what there is before loading."""

from csaq_runtime.cache import cache_bytes
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.heads import head_pad, padded
from csaq_runtime.hparams import HParams, read_hparams
from csaq_runtime.memory_limits import require_memory

WORKING_BYTES = 64 * 2**20
"""Python, NumPy, compiled kernels and small buffers."""


def estimated_memory(
    file: GGUFFile, n_ctx: int, cache_type: str = "f16", n_batch: int = 512, n_sequence: int = 1
) -> int:
    """Bytes that an engine on `file` needs at a context of `n_ctx`: weights, caches, buffers.

    Does not count the file's own pages, which the system may drop at any time.
    """
    return sum(_parts(file, n_ctx, cache_type, n_batch, n_sequence).values())


def _parts(
    file: GGUFFile, n_ctx: int, cache_type: str, n_batch: int, n_sequence: int
) -> dict[str, int]:
    hparams = read_hparams(file)
    rope = 4 * n_ctx * head_pad(hparams)
    batch = 4 * n_batch * _floats_per_token(hparams)
    return {
        "weights": sum(info.n_bytes for info in file.tensors.values()),
        "context": n_sequence * cache_bytes(hparams, n_ctx, cache_type),
        "buffers": rope + batch + WORKING_BYTES,
    }


def _floats_per_token(hparams: HParams) -> int:
    """Activations of one token: buffers of `Stepper`, with packed inputs as large as float32."""
    heads = (2 * hparams.n_head + 2 * hparams.n_head_kv) * head_pad(hparams)
    widest = max(hparams.n_embd, hparams.n_ff, hparams.n_head * hparams.head_dim)
    return 2 * padded(hparams.n_embd) + heads + 2 * padded(hparams.n_ff) + padded(widest)


def check_memory(
    file: GGUFFile,
    n_ctx: int,
    cache_type: str,
    n_batch: int,
    n_sequence: int = 1,
    drafting: int = 0,
    held: int = 0,
) -> None:
    """Raise ResourceError if `file` cannot be run in the memory that is left.

    drafting: bytes more for `--spec`, see `speculate.memory`.
    held: bytes fetched for it already, see `pages`.
    """
    parts = _parts(file, n_ctx, cache_type, n_batch, n_sequence)
    require_memory(
        file.path,
        parts | {"drafting": drafting} if drafting else parts,
        "try a smaller context (-c) or a file with fewer bits per weight",
        held,
    )
