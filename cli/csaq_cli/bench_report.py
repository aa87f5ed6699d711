"""Samples of every trial → llama-bench's table, or its JSON."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csaq_cli.bench_trial import Trial
from csaq_cli.inventory import Inventory
from csaq_cli.table import one_line, size_text


@dataclass(frozen=True)
class Outcome:
    """Tokens per second of each repetition: ours, and the peer's better variant (or none)."""

    trial: Trial
    samples: Sequence[float]
    peer_samples: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """Our median over the peer's; None without a peer."""
        if not self.peer_samples:
            return None
        return statistics.median(self.samples) / statistics.median(self.peer_samples)


def as_table(inventory: Inventory, outcomes: Sequence[Outcome]) -> str:
    """A Markdown table as llama-bench prints it; with a peer, its figures and the ratio too."""
    header = ["model", "size", "params", "backend", "threads", "test", "t/s"]
    has_peer = any(outcome.peer_samples for outcome in outcomes)
    rows = [_row(inventory, outcome) for outcome in outcomes]
    header += ["llama.cpp t/s", "ratio"] if has_peer else []
    return "\n".join([_line(header), _line(["---"] * len(header)), *map(_line, rows)])


def _row(inventory: Inventory, outcome: Outcome) -> list[str]:
    row = [
        model_type(inventory),
        size_text(weight_bytes(inventory)),
        f"{inventory.n_weight / 1e9:.2f} B",
        "CPU",
        str(outcome.trial.n_threads),
        outcome.trial.label,
        _rate(outcome.samples),
    ]
    if outcome.ratio is not None:
        row += [_rate(outcome.peer_samples), f"{outcome.ratio:.2f}"]
    return row


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def _rate(samples: Sequence[float]) -> str:
    return f"{statistics.fmean(samples):.2f} ± {deviation(samples):.2f}"


def deviation(samples: Sequence[float]) -> float:
    """Standard deviation; 0 for a single sample."""
    return statistics.stdev(samples) if len(samples) > 1 else 0.0


def model_type(inventory: Inventory) -> str:
    """Architecture and the type that most bytes have, in llama-bench's manner: `qwen2 Q4_K`."""
    largest = max(inventory.types, key=lambda share: share.n_bytes)
    return one_line(f"{inventory.architecture} {largest.type}")


def weight_bytes(inventory: Inventory) -> int:
    """Bytes of all tensors."""
    return sum(share.n_bytes for share in inventory.types)


def as_json(
    inventory: Inventory, path: Path, outcomes: Sequence[Outcome], load: float
) -> list[dict[str, Any]]:
    """One object per trial, fields named as llama-bench names them; `load` is the machine's."""
    return [
        {
            "model_filename": str(path),
            "model_type": model_type(inventory),
            "model_size": weight_bytes(inventory),
            "model_n_params": inventory.n_weight,
            "backends": "CPU",
            "n_threads": outcome.trial.n_threads,
            "n_prompt": outcome.trial.n_prompt,
            "n_gen": outcome.trial.n_gen,
            "n_depth": outcome.trial.n_depth,
            "avg_ts": statistics.fmean(outcome.samples),
            "stddev_ts": deviation(outcome.samples),
            "samples_ts": list(outcome.samples),
            "load_average": load,
            **_peer_fields(outcome),
        }
        for outcome in outcomes
    ]


def _peer_fields(outcome: Outcome) -> dict[str, Any]:
    if outcome.ratio is None:
        return {}
    return {"peer_samples_ts": list(outcome.peer_samples), "ratio_of_medians": outcome.ratio}
