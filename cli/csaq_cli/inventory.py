"""What a GGUF holds, counted from its header alone: file → `Inventory`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from csaq_cli.rows_inventory import TierShare, clique_sizes, tier_shares
from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import GGUFFile, TensorInfo, open_gguf
from csaq_runtime.memory import estimated_memory
from csaq_runtime.rows.names import BESIDE, is_rows

# What `csaq run` takes by default: csaq_runtime.engine has the same, but imports Numba.
DEFAULT_N_CTX = 4096
SHOWN_ITEMS, SHOWN_CHARACTERS = 6, 200


@dataclass(frozen=True)
class TypeShare:
    """How much of a file one ggml type makes up."""

    type: str
    n_tensor: int
    n_weight: int
    n_bytes: int


@dataclass(frozen=True)
class Inventory:
    """A GGUF's contents; sizes in bytes, contexts in tokens, long metadata abbreviated.

    `memory_bytes` is what `csaq run` takes at `memory_n_ctx`, None where it cannot run the file.
    `tiers` is of the rows layout only; `clique_sizes` counts cliques by their rows, where known.
    """

    path: Path
    version: int
    architecture: str
    name: str
    file_bytes: int
    n_weight: int
    n_ctx: int
    memory_n_ctx: int
    memory_bytes: int | None
    types: list[TypeShare]
    tiers: list[TierShare]
    clique_sizes: dict[int, int]
    tensors: list[TensorInfo]
    metadata: dict[str, Any]

    @property
    def bpw(self) -> float:
        """Bits per weight of the whole file, metadata included."""
        return 8 * self.file_bytes / self.n_weight if self.n_weight else 0.0

    def as_dict(self, tensors: bool, metadata: bool) -> dict[str, Any]:
        """For JSON: the summary, and on request every tensor and every metadata key."""
        content: dict[str, Any] = {
            "path": str(self.path),
            "gguf_version": self.version,
            "architecture": self.architecture,
            "name": self.name,
            "file_bytes": self.file_bytes,
            "parameters": self.n_weight,
            "bpw": round(self.bpw, 4),
            "context_length": self.n_ctx,
            "estimated_memory_n_ctx": self.memory_n_ctx,
            "estimated_memory_bytes": self.memory_bytes,
            "types": [asdict(share) for share in self.types],
            "tiers": [asdict(share) for share in self.tiers],
            "clique_sizes": self.clique_sizes,
        }
        if tensors:
            content["tensors"] = [_tensor_dict(tensor) for tensor in self.tensors]
        if metadata:
            content["metadata"] = self.metadata
        return content


def take_inventory(path: Path) -> Inventory:
    """Open `path`, count, close. Raises GGUFError."""
    with open_gguf(path) as file:
        tensors, n_ctx = list(file.tensors.values()), _context(file)
        architecture = file.text("general.architecture", "unknown")
        return Inventory(
            path=path,
            version=file.version,
            architecture=architecture,
            name=file.text("general.name", ""),
            file_bytes=path.stat().st_size,
            n_weight=sum(count_weights(tensor) for tensor in tensors),
            n_ctx=n_ctx,
            memory_n_ctx=min(n_ctx, DEFAULT_N_CTX),
            memory_bytes=_memory(file, min(n_ctx, DEFAULT_N_CTX)),
            types=_shares(tensors),
            tiers=tier_shares(file.tensors) if is_rows(architecture) else [],
            clique_sizes=clique_sizes(file),
            tensors=tensors,
            metadata={key: abbreviated(value) for key, value in file.metadata.items()},
        )


def count_weights(tensor: TensorInfo) -> int:
    """Number of weights of a tensor; what stands beside a matrix and changes its own are none."""
    if tensor.name.rpartition(".")[2] in BESIDE:
        return 0
    return int(np.prod(tensor.shape, dtype=object))


def abbreviated(value: Any) -> Any:
    """A metadata value short enough to read: long arrays and texts keep their beginning."""
    if isinstance(value, str):
        rest = len(value) - SHOWN_CHARACTERS
        return value if rest <= 0 else f"{value[:SHOWN_CHARACTERS]}… ({rest:,} more characters)"
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, list | np.ndarray):
        return value
    head = [abbreviated(item) for item in value[:SHOWN_ITEMS]]
    return head if len(value) <= SHOWN_ITEMS else [*head, f"… {len(value):,} in all"]


def _shares(tensors: list[TensorInfo]) -> list[TypeShare]:
    by_type: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.type.name, []).append(tensor)
    shares = [
        TypeShare(name, len(group), sum(map(count_weights, group)), sum(t.n_bytes for t in group))
        for name, group in by_type.items()
    ]
    return sorted(shares, key=lambda share: -share.n_bytes)


def _tensor_dict(tensor: TensorInfo) -> dict[str, Any]:
    shape = list(tensor.shape)
    return {
        "name": tensor.name,
        "type": tensor.type.name,
        "shape": shape,
        "n_bytes": tensor.n_bytes,
        "offset": tensor.offset,
    }


def _context(file: GGUFFile) -> int:
    """Tokens of context the model was trained for, 0 where the file does not say."""
    return file.integer(f"{file.text('general.architecture', 'unknown')}.context_length", 0)


def _memory(file: GGUFFile, n_ctx: int) -> int | None:
    """Bytes that `csaq run` will take, None where it cannot run the file."""
    try:
        return estimated_memory(file, n_ctx)
    except ModelError:
        return None
