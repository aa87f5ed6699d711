"""What a server has done so far, and how `/metrics` says it: Prometheus' text format."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Counters:
    """Totals since the start; each is changed by one thread only."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    n_open: int = 0
    n_cancelled: int = 0
    n_step: int = 0
    step_seconds: float = 0.0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    started: float = field(default_factory=time.time)


HELP = {
    "csaq_requests_total": "Requests answered, by path and status.",
    "csaq_requests_active": "Requests that are being answered, this one included.",
    "csaq_cancelled_total": "Generations whose client went away.",
    "csaq_steps_total": "Passes over the weights.",
    "csaq_step_seconds_total": "Time spent in them.",
    "csaq_prompt_tokens_total": "Prompt tokens computed.",
    "csaq_prompt_tokens_cached_total": "Prompt tokens found in a cache.",
    "csaq_generated_tokens_total": "Tokens generated.",
    "csaq_jobs_active": "Generations that share the steps.",
    "csaq_jobs_waiting": "Generations in the queue.",
    "process_start_time_seconds": "Start of the server, seconds since 1970.",
    "process_resident_memory_bytes": "Resident memory.",
    "process_open_fds": "Open file descriptors.",
}


def metrics_text(counters: Counters, n_active: int, n_waiting: int) -> str:
    """All figures, one metric after the other."""
    values: dict[str, float] = {
        "csaq_requests_active": counters.n_open,
        "csaq_cancelled_total": counters.n_cancelled,
        "csaq_steps_total": counters.n_step,
        "csaq_step_seconds_total": counters.step_seconds,
        "csaq_prompt_tokens_total": counters.n_prompt,
        "csaq_prompt_tokens_cached_total": counters.n_cached,
        "csaq_generated_tokens_total": counters.n_generated,
        "csaq_jobs_active": n_active,
        "csaq_jobs_waiting": n_waiting,
        "process_start_time_seconds": counters.started,
        **_process(),
    }
    samples = {name: [f"{name} {value:.10g}"] for name, value in values.items()}
    samples["csaq_requests_total"] = [
        f'csaq_requests_total{{path="{path}",status="{status}"}} {n}'
        for (path, status), n in sorted(counters.requests.items())
    ]
    return "".join(
        f"# HELP {name} {HELP[name]}\n# TYPE {name} {_kind(name)}\n" + "\n".join([*lines, ""])
        for name, lines in samples.items()
    )


def _kind(name: str) -> str:
    return "counter" if name.endswith("_total") else "gauge"


def _process() -> dict[str, float]:
    """Memory and descriptors, where the system tells (Linux)."""
    proc = Path("/proc/self")
    try:
        resident = int((proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        n_open = len(list((proc / "fd").iterdir()))
    except (OSError, ValueError):
        return {}
    return {"process_resident_memory_bytes": resident, "process_open_fds": n_open}
