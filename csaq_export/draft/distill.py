"""Passages → a trained head: it learns to say what the model would, several tokens ahead.

The loss at every step of the rollout is the cross entropy of the model's own prediction, as far
as it falls on the head's tokens, and how far the state is off. AdamW (arXiv:1711.05101); batches
are drawn by step and seed, so a run that was stopped goes on with the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from csaq_export.draft.head import DraftHead, Guess
from csaq_export.draft.passages import Passages
from csaq_export.workdir import Fingerprint, WorkDir

Report = Callable[[str, int, int], None]
AHEAD = 3
"""Tokens that the head guesses in a row while it is trained."""

RATE, BETAS, WEIGHT_DECAY, CLIP = 2e-3, (0.9, 0.95), 0.01, 1.0
WARMUP_STEPS = 30
LATER_WEIGHT = 0.8
"""What a step of the rollout counts relative to the one before it."""

STATE_WEIGHT = 0.2
"""What the state's error counts, relative to its mean square, beside the cross entropy."""

_STEPS_PER_STAGE = 100


@dataclass(frozen=True)
class Schedule:
    """`n_step` steps of `batch_size` windows, drawn with `seed`."""

    n_step: int
    batch_size: int
    seed: int


def distill(
    head: DraftHead,
    passages: Passages,
    schedule: Schedule,
    work: WorkDir,
    fingerprint: Fingerprint,
    report: Report,
) -> None:
    """Train `head` in place; where it stands is kept in `work` every 100 steps."""
    optimizer = torch.optim.AdamW(
        head.parameters(), RATE, BETAS, weight_decay=WEIGHT_DECAY, foreach=True
    )
    begun = _resume(head, optimizer, work.load(STAGE, fingerprint))
    for step in range(begun, schedule.n_step):
        report("training the head", step, schedule.n_step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * _rate(step, schedule.n_step)
        batch = passages.take(_drawn(len(passages), schedule, step))
        loss = rollout_loss(head, batch, head.rollout(batch, AHEAD))
        optimizer.zero_grad()
        torch.autograd.backward([loss])
        nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        optimizer.step()
        if (step + 1) % _STEPS_PER_STAGE == 0 or step + 1 == schedule.n_step:
            work.save(STAGE, fingerprint, _snapshot(head, optimizer, step + 1))


STAGE = "head"


def rollout_loss(head: DraftHead, passages: Passages, guesses: list[Guess]) -> Tensor:
    """Mean loss of the guesses 1, 2, … tokens ahead, each weighed by `LATER_WEIGHT` less."""
    n = guesses[0].state.shape[1]
    total, weight, weights = torch.zeros(()), 1.0, 0.0
    for step, guess in enumerate(guesses, 1):
        rows = slice(step, step + n)
        wanted = passages.hidden[:, rows].float()
        likely = (wanted @ head.rows.T - passages.log_total[:, rows, None]).exp()
        crossed = -(likely * guess.logits.log_softmax(-1)).sum(-1).mean()
        off = (guess.state - wanted).square().mean() / wanted.square().mean()
        total = total + weight * (crossed + STATE_WEIGHT * off)
        weights, weight = weights + weight, weight * LATER_WEIGHT
    return total / weights


@torch.no_grad()
def agreement(head: DraftHead, passages: Passages, n_ahead: int = AHEAD) -> list[float]:
    """Share of positions where the likeliest guess 1, 2, … tokens ahead is the model's choice.

    The tokens in between are the text's: the share is that of drafts that stood so far.
    """
    hits = torch.zeros(n_ahead, dtype=torch.float64)
    for start in range(len(passages)):
        part = passages.take(slice(start, start + 1))
        n = part.tokens.shape[1] - n_ahead
        for step, guess in enumerate(head.rollout(part, n_ahead), 1):
            found = head.ids[guess.logits.argmax(-1)]
            hits[step - 1] += (found == part.best[:, step : step + n]).double().mean()
    return [float(share) for share in hits / len(passages)]


def _drawn(n: int, schedule: Schedule, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + step)
    return torch.randint(n, (schedule.batch_size,), generator=generator)


def _rate(step: int, n_step: int) -> float:
    """A short warm-up, then a straight line to nothing."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / n_step)


def _snapshot(head: DraftHead, optimizer: torch.optim.AdamW, step: int) -> dict[str, Tensor]:
    found = {"step": torch.tensor(step)}
    for name, parameter in head.named_parameters():
        state = optimizer.state[parameter]
        found |= {f"weight.{name}": parameter, f"first.{name}": state["exp_avg"]}
        found[f"second.{name}"] = state["exp_avg_sq"]
    return found


@torch.no_grad()
def _resume(head: DraftHead, optimizer: torch.optim.AdamW, stage: dict[str, Tensor] | None) -> int:
    """Take up a snapshot; steps done."""
    if stage is None:
        return 0
    for name, parameter in head.named_parameters():
        parameter.copy_(stage[f"weight.{name}"])
        optimizer.state[parameter] = {
            "step": stage["step"].float(),
            "exp_avg": stage[f"first.{name}"].to(parameter),
            "exp_avg_sq": stage[f"second.{name}"].to(parameter),
        }
    return int(stage["step"])
