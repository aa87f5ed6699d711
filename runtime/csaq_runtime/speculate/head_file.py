"""A head's sidecar GGUF and the model it was made for → the head, ready for the kernels.

Everything is checked before a kernel sees it: sizes, token texts and the final norm must be the
model's (`csaq draft` wrote down which), tensors must have the shapes these give, ids must exist.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from csaq_runtime.errors import ModelError
from csaq_runtime.gguf import GGUFFile, open_gguf
from csaq_runtime.hparams import HParams
from csaq_runtime.model import Model, load_layer, load_norm, load_output
from csaq_runtime.rows.integers import check_range, read_integers
from csaq_runtime.speculate.head_keys import (
    ARCHITECTURE,
    IDS,
    NORM,
    PREFIX,
    SUFFIX,
    TARGET_SIZES,
    VERSION,
    tokens_sha256,
)
from csaq_runtime.step import Choices
from csaq_runtime.tensors import TensorRule, check_names, layer_rules

NORM_TOLERANCE = 0.05
"""Tuning moves a norm by less, relative to its length; norms of other models differ by more."""


@dataclass(frozen=True)
class Head:
    """`model`: one layer whose output are the model's rows `ids` int64 [n]; `choices` by these.

    `token_input` gives what it sees of any token id, float32 [n_embd].
    """

    model: Model
    choices: Choices
    ids: NDArray[np.int64]
    token_input: Callable[[int], NDArray[np.float32]]


def head_beside(path: Path) -> Path | None:
    """The sidecar that lies beside the model file `path`, if there is one.

    `Name-Q4_K_M.gguf` goes with `Name-Q4_K_M-draft.gguf` or `Name-draft.gguf`.
    """
    for stem in (path.stem, path.stem.rpartition("-")[0]):
        beside = path.with_name(stem + SUFFIX)
        if stem and beside != path and beside.is_file():
            return beside
    return None


def load_head(path: Path, file: GGUFFile, model: Model) -> Head:
    """Check the sidecar at `path` against `model`, which was loaded from `file`, and pack it.

    Raises GGUFError or ModelError, naming what is wrong or does not fit.
    """
    with open_gguf(path) as sidecar:
        _check_target(sidecar, file, model.hparams)
        n_ff = sidecar.integer(f"{PREFIX}.feed_forward_length", minimum=1, maximum=2**20)
        epsilon = sidecar.number(f"{PREFIX}.layer_norm_rms_epsilon")
        hparams = replace(model.hparams, n_layer=1, n_ff=n_ff, rms_epsilon=epsilon)
        _check_tensors(sidecar, hparams)
        _check_norm(sidecar, model)
        ids = read_integers(sidecar, IDS)
        check_range(sidecar, IDS, ids, hparams.n_vocab)
        project = sidecar.float32("token_proj.weight")
        scale = sidecar.float32("state_scale.weight")
        layer, norm = load_layer(sidecar, hparams, 0), load_norm(sidecar, "output_norm.weight")
    output = load_output(file, model.hparams, ids)
    hparams = replace(hparams, n_vocab=len(ids))
    head = replace(model, hparams=hparams, layers=[layer], output_norm=norm, output=output)

    def normed(wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = model.embed(wanted)
        mean_square = np.square(rows).mean(axis=1, keepdims=True)
        found: NDArray[np.float32] = rows / np.sqrt(mean_square + np.float32(epsilon))
        return found

    known = (normed(ids) @ project.T).astype(np.float16)
    place = {int(token): index for index, token in enumerate(ids)}

    def token_input(token: int) -> NDArray[np.float32]:
        found: NDArray[np.float32]
        if token in place:
            found = known[place[token]].astype(np.float32)
        else:
            # Not by BLAS, whose threads would wait for a core that a follower polls on.
            found = np.einsum("ij,j->i", project, normed(np.array([token]))[0])
        return found

    return Head(head, Choices(known, scale), ids, token_input)


def _check_target(sidecar: GGUFFile, file: GGUFFile, hparams: HParams) -> None:
    """Refuse what is no head, or one of another model."""
    if sidecar.text("general.architecture") != ARCHITECTURE:
        raise ModelError(f"{sidecar.path}: not a draft head", "csaq draft makes one")
    sidecar.integer(f"{PREFIX}.version", minimum=1, maximum=VERSION)
    _compare(sidecar, "architecture", sidecar.text(f"{PREFIX}.architecture"), hparams.architecture)
    for key, field in TARGET_SIZES.items():
        _compare(sidecar, key, sidecar.integer(f"{PREFIX}.{key}"), getattr(hparams, field))
    tokens = tokens_sha256(file.texts("tokenizer.ggml.tokens", []))
    _compare(sidecar, "tokens_sha256", sidecar.text(f"{PREFIX}.tokens_sha256"), tokens)


def _compare(sidecar: GGUFFile, key: str, wanted: object, found: object) -> None:
    if wanted != found:
        raise _misfit(sidecar, f"{key} is {wanted!r} in the head and {found!r} in the model")


def _misfit(sidecar: GGUFFile, reason: str) -> ModelError:
    return ModelError(
        f"{sidecar.path}: made for another model: {reason}",
        "--draft-model names another head, --spec ngram takes none",
    )


def _check_norm(sidecar: GGUFFile, model: Model) -> None:
    """Refuse a model of the same shape and vocabulary but of other weights."""
    wanted, found = sidecar.float32(NORM), model.output_norm[: model.hparams.n_embd]
    if not np.linalg.norm(found - wanted) <= NORM_TOLERANCE * np.linalg.norm(wanted):
        raise _misfit(sidecar, "the weights of the final norm differ")


def _check_tensors(sidecar: GGUFFile, hparams: HParams) -> None:
    n_embd = hparams.n_embd
    rules = layer_rules(hparams, 0, fused=False) | {
        "output_norm.weight": TensorRule((n_embd,), True),
        "state_scale.weight": TensorRule((n_embd,), True),
        "token_proj.weight": TensorRule((n_embd, n_embd), True),
        NORM: TensorRule((n_embd,), True),
    }
    check_names(sidecar, rules, {IDS})
    if IDS not in sidecar.tensors:
        raise ModelError(f"{sidecar.path}: tensor {IDS} is missing")
