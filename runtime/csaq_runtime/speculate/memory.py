"""How much memory drafting takes beside the model's own, from file headers alone."""

from pathlib import Path

from csaq_runtime.formats import row_bytes
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.heads import head_pad
from csaq_runtime.hparams import HParams
from csaq_runtime.kernels.dispatch import PLANE_FORMATS
from csaq_runtime.speculate.head_keys import IDS


def draft_memory(
    file: GGUFFile, hparams: HParams, n_ctx: int, sidecar: Path | None, planes: bool
) -> int:
    """Bytes for the head in `sidecar`, if any, and for weights of `file` in two `planes`.

    Raises GGUFError for a sidecar that cannot be read.
    """
    rope = 4 * n_ctx * head_pad(hparams)
    if sidecar is not None:
        return _head_bytes(file, hparams.n_embd, sidecar) + rope
    return _planes_bytes(file) + rope if planes else 0


def _head_bytes(file: GGUFFile, n_embd: int, sidecar: Path) -> int:
    """The head's own weights, its rows of the model's output, and inputs in float16, twice."""
    output = file.tensors.get("output.weight") or file.tensors.get("token_embd.weight")
    row = row_bytes(output.type, n_embd) if output else 4 * n_embd
    with open_gguf(sidecar) as head:
        weights = sum(info.n_bytes for info in head.tensors.values())
        n_id = head.tensors[IDS].n_bytes // 4 if IDS in head.tensors else 0
    return weights + n_id * (row + 4 * n_embd) + 4 * n_embd * n_embd


def _planes_bytes(file: GGUFFile) -> int:
    """What two planes take beyond the file's bytes, by their formats."""
    total = 0
    for info in file.tensors.values():
        if info.type in PLANE_FORMATS:
            whole, _ = PLANE_FORMATS[info.type]
            total += info.n_bytes // whole.source_size * (whole.type_size - whole.source_size)
    return total
