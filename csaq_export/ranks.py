"""Data-parallel ranks: which of torchrun's processes this is, and how they meet.

torchrun starts a process per device, on one machine or several, and tells each its place
by environment variables. Work is divided so that no result depends on their number:
whoever computes a part, parts are put together in one order (`statistics.pairwise`,
`from_all_ranks`). Only the first rank prints and writes the output.
"""

import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from csaq_export.device import find_device
from csaq_runtime.errors import CsaqError, UsageError

Item = TypeVar("Item")
# A rank that fails is noticed at once; this bounds the wait for one that hangs.
TIMEOUT = timedelta(hours=2)


def rank_and_count() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this is the rank that prints and writes."""
    return rank_and_count()[0] == 0


@contextmanager
def joined_ranks() -> Iterator[None]:
    """Meet the other ranks of torchrun, for as long as the context lasts.

    When ranks fail, the first to do so raises what happened; the others, who mostly miss
    that one, leave with SystemExit. torchrun then ends the rest and itself with an error.
    """
    store, rank, count = next(rendezvous("env://"))
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(find_device("cuda"))
    dist.init_process_group(backend, timeout=TIMEOUT, world_size=count, rank=rank, store=store)
    try:
        yield
    except BaseException:
        if store.add("csaq-failures", 1) == 1:
            raise
        raise SystemExit(1) from None
    dist.destroy_process_group()


@contextmanager
def ranks_folder(wanted: Path | None) -> Iterator[Path]:
    """`wanted`, or a temporary folder, which all ranks see; UsageError if they do not.

    The first rank leaves the context last in time, as it alone goes on to write.
    """
    if wanted is not None:
        if rank_and_count()[1] > 1:
            wanted.mkdir(parents=True, exist_ok=True)
            _check_shared(wanted)
        yield wanted
    elif not is_first():
        folder = Path(from_first(""))
        _check_shared(folder)
        yield folder
    else:
        with tempfile.TemporaryDirectory(prefix="csaq-") as made:
            _check_shared(Path(from_first(made)))
            yield Path(made)


def _check_shared(folder: Path) -> None:
    """Every rank looks for a file that the first one makes."""
    if rank_and_count()[1] == 1:
        return
    name = from_first(f".ranks-{secrets.token_hex(8)}")
    if is_first():
        (folder / name).touch()
    wait_for_ranks()
    missing = not (folder / name).exists()
    found = any(from_all_ranks(missing))
    if is_first():
        (folder / name).unlink()
    if found:
        raise UsageError(
            f"{folder}: not every rank sees this folder",
            "give a --work-dir on storage that all machines share",
        )


@contextmanager
def _meeting() -> Iterator[None]:
    """Turn what torch raises when a rank has gone into a CsaqError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CsaqError(
            f"rank {rank_and_count()[0]} lost the other ranks: {reason}",
            "one of them was killed or hangs; with --work-dir a new run goes on where this ended",
        ) from error


def wait_for_ranks() -> None:
    """Go on when every rank is here."""
    if rank_and_count()[1] > 1:
        with _meeting():
            dist.barrier()


def from_first(value: Item) -> Item:
    """The first rank's `value`, on every rank."""
    if rank_and_count()[1] == 1:
        return value
    held = [value]
    with _meeting():
        dist.broadcast_object_list(held, 0, device=torch.device("cpu"))
    return held[0]


def from_all_ranks(value: Item) -> list[Item]:
    """Every rank's `value`, by rank."""
    count = rank_and_count()[1]
    if count == 1:
        return [value]
    held: list[Item] = [value] * count
    with _meeting():
        dist.all_gather_object(held, value)
    return held


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th of `items`, those of this rank."""
    rank, count = rank_and_count()
    return items[rank::count]


def send_to_first(tensors: Sequence[Tensor]) -> None:
    """Hand tensors to the first rank, which awaits them with `receive`."""
    with _meeting():
        for tensor in tensors:
            if tensor.numel():
                dist.send(tensor.contiguous(), 0)


def receive(rank: int, like: Sequence[Tensor]) -> list[Tensor]:
    """What `rank` sends, shaped as `like`."""
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in like]
    with _meeting():
        for tensor in found:
            if tensor.numel():
                dist.recv(tensor, rank)
    return found
