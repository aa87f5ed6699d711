"""Token windows → what the model makes of them: the teacher's side of the distillation.

Kept in the work dir, a stage per batch of windows, so that a run that was stopped goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from csaq_export.workdir import Fingerprint, WorkDir

Report = Callable[[str, int, int], None]
# Windows per stage.
_WINDOWS = 8


@dataclass(frozen=True)
class Passages:
    """What a model makes of n windows of T tokens.

    `tokens` int64 [n, T]; `hidden` float16 [n, T, n_embd], after the final norm; `keys` and
    `values` float16 [n, n_head_kv, T, head_dim] of the last layer, keys rotated (Hugging
    Face's order); `log_total` float32 [n, T], logarithm of the sum over the vocabulary of
    e^logit; `best` int64 [n, T], the likeliest next token.
    """

    tokens: Tensor
    hidden: Tensor
    keys: Tensor
    values: Tensor
    log_total: Tensor
    best: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Tensor | slice) -> "Passages":
        """Some of the windows."""
        return Passages(*(getattr(self, name)[rows] for name in FIELDS))


FIELDS = ("tokens", "hidden", "keys", "values", "log_total", "best")


def collect_passages(
    model: PreTrainedModel,
    tokens: Tensor,
    work: WorkDir,
    fingerprint: Fingerprint,
    report: Report,
) -> Passages:
    """Run `model` over the windows int64 [n, T], as far as `work` has no stages of it yet."""
    starts = range(0, len(tokens), _WINDOWS)
    parts = []
    for done, start in enumerate(starts):
        report("reading passages", done, len(starts))
        stage = f"passages-{start:06}"
        found = work.load(stage, fingerprint)
        if found is None:
            found = _passage(model, tokens[start : start + _WINDOWS])
            work.save(stage, fingerprint, found)
        parts.append(found)
    return Passages(*(torch.cat([part[name] for part in parts]) for name in FIELDS))


@torch.no_grad()
def _passage(model: PreTrainedModel, tokens: Tensor) -> dict[str, Tensor]:
    device = model.device
    body = model.get_decoder()  # type: ignore[no-untyped-call]
    output = body(tokens.to(device), use_cache=True)
    hidden = output.last_hidden_state
    logits = model.get_output_embeddings()(hidden).float()  # type: ignore[no-untyped-call]
    last = output.cache.layers[-1]
    found = {
        "tokens": tokens,
        "hidden": hidden.half(),
        "keys": last.keys.half(),
        "values": last.values.half(),
        "log_total": logits.logsumexp(-1),
        "best": logits.argmax(-1),
    }
    return {name: value.cpu() for name, value in found.items()}
