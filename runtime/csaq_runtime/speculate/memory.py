"""How much memory drafting takes beside the model's own, from file headers alone."""

from pathlib import Path

from csaq_runtime.formats import GGMLType, row_bytes
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.heads import head_pad
from csaq_runtime.hparams import read_hparams
from csaq_runtime.speculate.head_keys import IDS

BF16_BLOCK_BYTES = 128
"""In two planes a block of so many bytes takes one more, for the exponent its columns share."""


def draft_memory(file: GGUFFile, n_ctx: int, sidecar: Path | None, planes: bool) -> int:
    """Bytes for the head in `sidecar`, if any, and for weights of `file` in two `planes`.

    Raises GGUFError for a sidecar that cannot be read.
    """
    rope = 4 * n_ctx * head_pad(read_hparams(file))
    if sidecar is not None:
        return _head_bytes(file, sidecar) + rope
    return _exponent_bytes(file) + rope if planes else 0


def _head_bytes(file: GGUFFile, sidecar: Path) -> int:
    """The head's own weights, its rows of the model's output, and inputs in float16, twice."""
    n_embd = read_hparams(file).n_embd
    output = file.tensors.get("output.weight") or file.tensors.get("token_embd.weight")
    row = row_bytes(output.type, n_embd) if output else 4 * n_embd
    with open_gguf(sidecar) as head:
        weights = sum(info.n_bytes for info in head.tensors.values())
        n_id = head.tensors[IDS].n_bytes // 4 if IDS in head.tensors else 0
    return weights + n_id * (row + 4 * n_embd) + 4 * n_embd * n_embd


def _exponent_bytes(file: GGUFFile) -> int:
    matrices = [info for info in file.tensors.values() if info.type is GGMLType.BF16]
    return sum(info.n_bytes // BF16_BLOCK_BYTES for info in matrices)
