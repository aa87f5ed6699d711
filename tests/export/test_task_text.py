"""Tasks as calibration: answers, and only they, are what windows should predict."""

import pytest
import torch

from csaq_export.statistics.gradients import NO_LABEL
from csaq_export.task_text import task_windows
from csaq_runtime.errors import UsageError
from csaq_runtime.tasks import Kind, Question, Task
from tests.export.models import byte_level_tokenizer


def task(n=30):
    questions = tuple(Question(f"the dog {i}?\nAnswer:", f" yes {i}") for i in range(n))
    return Task("dogs", Kind.SQL, questions)


def test_labels_are_the_answers_and_the_end_behind_them():
    tokenizer = byte_level_tokenizer("llama-bpe")
    windows, labels = task_windows(task(), tokenizer, 1000, 16, 0)
    order = torch.randperm(len(windows.tokens), generator=torch.Generator().manual_seed(0))
    wanted = torch.empty_like(labels)
    wanted[order] = labels
    wanted = wanted.flatten()
    answers = "".join(f" yes {i}\n\n" for i in range(30))
    read = tokenizer.decode(wanted[wanted != NO_LABEL])
    assert len(read) > 0.9 * len(answers)
    assert answers.startswith(read)


def test_a_label_is_the_token_at_the_next_place():
    tokenizer = byte_level_tokenizer("llama-bpe")
    windows, labels = task_windows(task(), tokenizer, 1000, 16, 0)
    inside = labels[:, :-1]
    marked = inside != NO_LABEL
    assert torch.equal(inside[marked], windows.tokens[:, 1:][marked])


def test_a_task_below_a_window_is_refused():
    with pytest.raises(UsageError, match=r"dogs: only \d+ tokens"):
        task_windows(task(1), byte_level_tokenizer("llama-bpe"), 4, 64, 0)
