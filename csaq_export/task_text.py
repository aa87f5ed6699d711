"""A task's questions and answers → calibration windows, and which of their tokens are answers.

Questions stand one behind the other until a window is full, so that all tokens count and
windows need no padding; the model learns nothing, only what the answers depend on is seen.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from csaq_export.calibration import Calibration
from csaq_export.statistics.gradients import NO_LABEL
from csaq_runtime.errors import UsageError
from csaq_runtime.tasks import Task

Marked = tuple[list[int], list[bool]]


def task_windows(
    task: Task, tokenizer: PreTrainedTokenizerBase, n_sample: int, seq_len: int, seed: int
) -> tuple[Calibration, Tensor]:
    """Up to `n_sample` windows of `seq_len` tokens, drawn from all, and their labels.

    Labels int64 [n_sample, seq_len] are the next token where that is part of an answer, else
    NO_LABEL. Raises UsageError for tasks shorter than one window.
    """
    ids, is_answer = _stream(task, tokenizer)
    n_window = (len(ids) - 1) // seq_len
    if n_window == 0:
        raise UsageError(f"{task.name}: only {len(ids)} tokens, one window needs {seq_len + 1}")
    order = torch.randperm(n_window, generator=torch.Generator().manual_seed(seed))[:n_sample]
    wanted = torch.where(torch.tensor(is_answer), torch.tensor(ids), NO_LABEL)
    tokens = torch.tensor(ids)[: n_window * seq_len].view(n_window, seq_len)[order]
    labels = wanted[1 : n_window * seq_len + 1].view(n_window, seq_len)[order]
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    return Calibration(tokens, task.name, digest, seed), labels


def next_tokens(windows: Calibration) -> Tensor:
    """Labels of an ordinary text, int64 like its tokens: every next one."""
    labels = torch.full_like(windows.tokens, NO_LABEL)
    labels[:, :-1] = windows.tokens[:, 1:]
    return labels


def _stream(task: Task, tokenizer: PreTrainedTokenizerBase) -> Marked:
    ids: list[int] = []
    is_answer: list[bool] = []
    for part, marks in _questions(task, tokenizer):
        ids += part
        is_answer += marks
    return ids, is_answer


def _questions(task: Task, tokenizer: PreTrainedTokenizerBase) -> Iterator[Marked]:
    start = tokenizer.bos_token_id
    for question in task.questions:
        before = [] if start is None else [start]
        before += tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        whole = [] if start is None else [start]
        whole += tokenizer(question.text + "\n\n", add_special_tokens=False)["input_ids"]
        n = _n_common(before, whole)
        yield whole, [False] * n + [True] * (len(whole) - n)


def _n_common(a: list[int], b: list[int]) -> int:
    differs = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differs, min(len(a), len(b)))
