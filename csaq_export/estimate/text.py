"""Seconds and bytes of the model writing its own text, from a few tokens that it writes."""

from functools import partial
from pathlib import Path

import torch

from csaq_export.estimate.clock import slowdown, timed_alone
from csaq_export.estimate.job import Job
from csaq_export.estimate.stage import Stage
from csaq_export.footprint import Shapes, whole_bytes
from csaq_export.own_text import WINDOWS_AT_ONCE, Drawn, draw_windows
from csaq_export.torch_model import load_tokenizer, load_torch_model

FEW_TOKENS, MORE_TOKENS = 3, 27
CPU = torch.device("cpu")


def text_stage(folder: Path, job: Job, shapes: Shapes) -> Stage:
    """Batches of windows are written side by side, a token of each at a time."""
    model, tokenizer = load_torch_model(folder).model, load_tokenizer(folder)
    n_window = job.n_window + job.n_held

    def write(n_token: int) -> None:
        shape, drawn = (min(WINDOWS_AT_ONCE, n_window), n_token), Drawn(torch.Generator(), 1.0)
        draw_windows(model, tokenizer, shape, drawn)

    few, more = partial(write, FEW_TOKENS), partial(write, MORE_TOKENS)
    few()
    each = max(0.0, timed_alone(more, CPU) - timed_alone(few, CPU)) / (MORE_TOKENS - FEW_TOKENS)
    n_batch = -(-n_window // WINDOWS_AT_ONCE)
    n_core = min(torch.get_num_threads(), n_batch)
    found = n_batch * job.seq_len * each * slowdown(more, n_core, CPU) / n_core
    return Stage("write text", found, whole_bytes(shapes, 0), 8 * n_window * job.seq_len)
