"""The story of `csaq draft`: a model and a text → a trained head in a sidecar GGUF.

windows     calibration text, and text that the model writes itself
passages    what the model makes of them
distill     passages → head
write       head → file
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from gguf import GGUFValueType
from torch import Tensor, nn

from csaq_export.arch import family_of
from csaq_export.arch.decoder import HParams, read_hparams, slots
from csaq_export.calibration import calibration_of, read_calibration
from csaq_export.config import Config, read_json
from csaq_export.device import find_device
from csaq_export.draft.distill import Schedule, agreement, distill
from csaq_export.draft.head import DraftHead
from csaq_export.draft.passages import Passages, collect_passages
from csaq_export.draft.vocabulary import common_ids
from csaq_export.draft.write import Target, write_head
from csaq_export.footprint import check_whole, memory_limit, shapes_of
from csaq_export.guidance import model_digest
from csaq_export.metadata import Metadata, array, text, u32
from csaq_export.own_text import write_calibration
from csaq_export.torch_model import TorchModel, load_tokenizer, load_torch_model
from csaq_export.vocabulary import vocabulary_metadata
from csaq_export.workdir import WorkDir
from csaq_export.write_gguf import check_place
from csaq_runtime.errors import UsageError

Report = Callable[[str, int, int], None]
TEMPERATURE = 0.7
"""Of the text that the model writes: nearer to what it says in use than its whole distribution."""

HELD_SHARE = 16
SHARE = 0.04
"""Weights of a head relative to its model's, where its least width allows."""


@dataclass(frozen=True)
class Drafting:
    """How to make a head for the model in `folder`.

    `calib`: a text; half of `n_sample` windows of `seq_len` tokens are drawn from it, the others
    (all of them, without a text) the model writes itself. `n_step` steps of `batch_size` windows.
    """

    folder: Path
    out: Path
    calib: str | None
    n_sample: int
    seq_len: int
    n_step: int
    batch_size: int
    seed: int
    device: str
    force: bool


@dataclass(frozen=True)
class Made:
    """A head's file: its bytes, how many tokens it may propose, and how often it is right.

    `agreement`: on windows kept apart, the share of its likeliest tokens 1, 2, … ahead that are
    the model's choice where all before them were.
    """

    n_bytes: int
    n_ids: int
    agreement: list[float]


def make_head(wanted: Drafting, work: WorkDir, report: Report) -> Made:
    """Train and write a head; raises UsageError, ModelError or ResourceError."""
    check_place(wanted.out, 0, wanted.force)
    device = find_device(wanted.device)
    target, torch_model = target_of(wanted.folder), load_torch_model(wanted.folder)
    shapes, hint = shapes_of(torch_model.slots.values()), "a smaller model, or a larger machine"
    check_whole(shapes, 0, memory_limit(None, device), hint)
    _check_window(wanted, target.hparams)
    nn.Module.to(torch_model.model, device)
    identity = {"model": model_digest(wanted.folder), "seed": str(wanted.seed)}
    tokens = _windows(wanted, torch_model, work, identity, report)
    identity |= calibration_of(tokens, "", wanted.seed).fingerprint
    passages = collect_passages(torch_model.model, tokens, work, identity, report)
    return _trained(wanted, target, torch_model, passages, work, identity, report)


def _trained(
    wanted: Drafting,
    target: Target,
    torch_model: TorchModel,
    passages: Passages,
    work: WorkDir,
    identity: dict[str, str],
    report: Report,
) -> Made:
    n_held = max(1, len(passages) // HELD_SHARE)
    training, held = passages.take(slice(n_held, None)), passages.take(slice(n_held))
    ids = common_ids(training.tokens, target.hparams.n_vocab)
    torch.manual_seed(wanted.seed)
    head = DraftHead(
        nn.Module.to(torch_model.model, "cpu"), ids, _n_ff(target.hparams), wanted.seq_len
    )
    head.to(find_device(wanted.device))
    schedule = Schedule(wanted.n_step, wanted.batch_size, wanted.seed)
    settings = {**identity, "schedule": str(schedule)}
    distill(head, training, schedule, work, settings, report)
    found = agreement(head, held)
    output_norm = torch_model.read("output_norm.weight").cpu().float()
    keys = _keys(wanted, found)
    n_bytes = write_head(wanted.out, head, output_norm, target, keys, wanted.force)
    return Made(n_bytes, len(ids), found)


def target_of(folder: Path) -> Target:
    """What a head's file says about the model in `folder`."""
    config = Config(read_json(folder / "config.json"), str(folder / "config.json"))
    family = family_of(config)
    h = read_hparams(config, family)
    places = {slot.name: slot for slot in slots(family, h)}
    tokens = vocabulary_metadata(folder, config, h.n_vocab)["tokenizer.ggml.tokens"].value
    return Target(family.architecture, h, places, tokens)


def _check_window(wanted: Drafting, h: HParams) -> None:
    if wanted.seq_len > h.n_ctx:
        raise UsageError(f"--seqlen {wanted.seq_len}: the model's context has {h.n_ctx} tokens")
    if wanted.n_sample < 2:
        raise UsageError("one window is kept apart for measuring: at least 2 are needed")


def _windows(
    wanted: Drafting, torch_model: TorchModel, work: WorkDir, identity: dict[str, str],
    report: Report,
) -> Tensor:  # fmt: skip
    """Int64 [n, seq_len]; given and written ones in turn, as far as there are both."""
    tokenizer = load_tokenizer(wanted.folder)
    n_given = wanted.n_sample // 2 if wanted.calib else 0
    parts = []
    if wanted.calib is not None:
        given = read_calibration(wanted.calib, tokenizer, n_given, wanted.seq_len, wanted.seed)
        parts.append(given.tokens)
    shape = (wanted.n_sample - n_given, wanted.seq_len, wanted.seed)
    identity = {**identity, "temperature": str(TEMPERATURE)}
    model = torch_model.model
    parts.append(
        write_calibration(model, tokenizer, shape, work, identity, report, TEMPERATURE).tokens
    )
    order = torch.randperm(
        sum(map(len, parts)), generator=torch.Generator().manual_seed(wanted.seed)
    )
    return torch.cat(parts)[order]


def _n_ff(h: HParams) -> int:
    n_q, n_kv = h.n_head * h.head_dim, h.n_head_kv * h.head_dim
    layer = 2 * h.n_embd * (n_q + n_kv) + 3 * h.n_embd * h.n_ff
    n_weight = h.n_layer * layer + (2 - h.tied) * h.n_vocab * h.n_embd
    return min(h.n_ff, head_width(n_weight, h.n_embd, n_q + n_kv))


def head_width(n_weight: int, n_embd: int, n_qkv: int) -> int:
    """Width of a head's feed-forward layer: what `SHARE` leaves, at least half of n_embd.

    n_weight: of the model; n_qkv: rows of its query and key matrices together.
    """
    left = SHARE * n_weight - n_embd * (n_embd + 2 * n_qkv)
    multiple = 256 if n_embd >= 512 else 32
    widest = max(left / (3 * n_embd), n_embd / 2)
    return max(multiple, int(widest) // multiple * multiple)


def _keys(wanted: Drafting, found: list[float]) -> Metadata:
    return {
        "csaq.seed": u32(wanted.seed),
        "csaq.calibration.dataset": text(Path(wanted.calib).name if wanted.calib else "own text"),
        "csaq.calibration.n_sample": u32(wanted.n_sample),
        "csaq.calibration.seq_len": u32(wanted.seq_len),
        "csaq.draft.n_step": u32(wanted.n_step),
        "csaq.draft.agreement": array(found, GGUFValueType.FLOAT32),
    }
