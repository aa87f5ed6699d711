"""Where torch computes, in which precision, and how exactly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from csaq_runtime.errors import UsageError


def find_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, for each rank its own; UsageError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no CUDA device")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def compute_dtype(device: torch.device) -> torch.dtype:
    """What a model runs in: bfloat16 on CUDA, where it is many times faster; else float32."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Whether CUDA may round factors of float32 products to TF32 inside the context.

    Sums of products of bfloat16 values lose nothing by it; rounding weights must agree
    with the CPU and goes without.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
