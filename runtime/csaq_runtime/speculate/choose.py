"""`--spec` and an opened model → the strategy that its replies use."""

from pathlib import Path

from csaq_runtime.errors import UsageError
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.kernels.dispatch import PLANE_FORMATS
from csaq_runtime.speculate.auto import Auto
from csaq_runtime.speculate.drafter import Drafter
from csaq_runtime.speculate.head_file import head_beside
from csaq_runtime.speculate.ngram import NGramDrafter
from csaq_runtime.speculate.strategy import Strategy

SPEC_KINDS = ("auto", "ngram", "head", "planes", "off")
MAX_DRAFT, DEFAULT_DRAFT = 64, 15


def check_spec(spec: str, n_max: int) -> None:
    """UsageError for a `spec` that does not exist, or an `n_max` that is not 0 … `MAX_DRAFT`."""
    if spec not in SPEC_KINDS:
        raise UsageError(f"spec {spec!r} is not one of {', '.join(SPEC_KINDS)}")
    if not 0 <= n_max <= MAX_DRAFT:
        raise UsageError(f"at most {n_max} drafted tokens: must be 0 … {MAX_DRAFT}")


def find_head(spec: str, n_max: int, path: Path, named: Path | None) -> Path | None:
    """The sidecar of the head that `spec` wants for the model at `path`: `named`, or beside it.

    None where none is wanted, or `auto` finds none. UsageError where `head` finds none.
    """
    if spec not in ("auto", "head") or n_max == 0:
        return None
    found = named or head_beside(path)
    if found is None and spec == "head":
        raise UsageError(f"{path}: no head lies beside it", "csaq draft makes one")
    return found


def wants_planes(spec: str, n_max: int, file: GGUFFile) -> bool:
    """Whether `spec` wants the weights of `file` in two planes, decided before they are packed.

    UsageError where there is nothing to divide.
    """
    if spec != "planes" or n_max == 0:
        return False
    if not any(info.type in PLANE_FORMATS for info in file.tensors.values()):
        names = " or ".join(kind.name for kind in PLANE_FORMATS)
        raise UsageError(f"{file.path}: no weights of {names}, which --spec planes divides")
    return True


def choose_strategy(spec: str, n_max: int, drafter: Drafter | None) -> Strategy | None:
    """What a checked `spec` asks for, at most `n_max` tokens at a time; None: plain decoding.

    drafter: by the head of `find_head`, or where `wants_planes` said so.
    """
    if spec == "off" or n_max == 0:
        return None
    drafters: list[Drafter] = [] if spec in ("head", "planes") else [NGramDrafter()]
    return Auto(drafters if drafter is None else [*drafters, drafter], n_max)
