"""Seconds and bytes of the model writing its own text, from a few tokens that it writes."""

from pathlib import Path

import torch

from csaq_export.estimate.clock import timed_alone
from csaq_export.estimate.job import Job
from csaq_export.estimate.stage import Stage
from csaq_export.footprint import Shapes, whole_bytes
from csaq_export.own_text import WINDOWS_AT_ONCE, Drawn, draw_windows
from csaq_export.torch_model import load_tokenizer, load_torch_model

FEW_TOKENS, MORE_TOKENS = 3, 11
CPU = torch.device("cpu")


def text_stage(folder: Path, job: Job, shapes: Shapes) -> Stage:
    """Batches of windows are written side by side, a token of each at a time."""
    model, tokenizer = load_torch_model(folder).model, load_tokenizer(folder)
    n_window = job.n_window + job.n_held

    def seconds(n_token: int) -> float:
        shape, drawn = (min(WINDOWS_AT_ONCE, n_window), n_token), Drawn(torch.Generator(), 1.0)
        return timed_alone(lambda: draw_windows(model, tokenizer, shape, drawn), CPU)

    seconds(FEW_TOKENS)
    each = max(0.0, seconds(MORE_TOKENS) - seconds(FEW_TOKENS)) / (MORE_TOKENS - FEW_TOKENS)
    n_batch = -(-n_window // WINDOWS_AT_ONCE)
    n_core = min(torch.get_num_threads(), n_batch)
    found = n_batch * job.seq_len * each / n_core
    return Stage("write text", found, whole_bytes(shapes, 0), 8 * n_window * job.seq_len)
