"""A model and a task → its share of right answers.

Multiple choice: the choice of highest log-likelihood behind the question, as MMLU is usually
scored. Maths and SQL: the model writes its likeliest tokens until the answer ends.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from csaq_runtime.engine import Engine
from csaq_runtime.evaluate import Estimate, estimate, log_softmax
from csaq_runtime.sample import Sampling
from csaq_runtime.tasks.answers import is_ended, is_right
from csaq_runtime.tasks.question import Kind, Question, Task

# Tokens a model may write.
ROOM = {Kind.MATHS: 256, Kind.SQL: 96}
GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Score:
    """`accuracy` is a share of 1; `n_cut` prompts lost their beginning to fit the context."""

    n_question: int
    n_right: int
    n_cut: int
    accuracy: Estimate


def score(
    engine: Engine, task: Task, progress: Callable[[int, int], None] = lambda done, total: None
) -> Score:
    """Ask every question; raises what the engine raises."""
    right, n_cut, total = [], 0, len(task.questions)
    answer = _chosen if task.kind is Kind.CHOICE else _written
    for done, question in enumerate(task.questions):
        progress(done, total)
        is_correct, is_cut = answer(engine, task, question)
        right.append(is_correct)
        n_cut += is_cut
    progress(total, total)
    return Score(total, sum(right), n_cut, estimate(np.array(right, np.float64)))


def _chosen(engine: Engine, task: Task, question: Question) -> tuple[bool, bool]:
    """Whether the right choice is the likeliest (the first of equal ones is taken); if cut."""
    text = task.header + question.prompt
    prompt = engine.vocabulary.encode(text, parse_special=False)
    likelihoods, rows, is_cut = [], {}, False
    for choice in question.choices:
        whole = engine.vocabulary.encode(text + choice, parse_special=False)
        n = len(whole) - _n_common(prompt, whole)
        ids = _cut(whole, engine.n_ctx)
        is_cut |= len(ids) < len(whole)
        context = tuple(ids[:-1])
        if context not in rows:  # choices of one token share theirs
            rows[context] = log_softmax(engine.logits(context)[-n:])
        likelihoods.append(sum(row[i] for row, i in zip(rows[context], ids[-n:], strict=True)))
    return question.choices[int(np.argmax(likelihoods))] == question.answer, is_cut


def _written(engine: Engine, task: Task, question: Question) -> tuple[bool, bool]:
    """Whether the answer that the model writes is right, and whether its prompt was cut."""
    whole = engine.vocabulary.encode(task.header + question.prompt, parse_special=False)
    room = min(ROOM[task.kind], engine.n_ctx // 2)
    prompt = _cut(whole, engine.n_ctx - room)
    ids: list[int] = []
    for step in engine.generate(prompt, GREEDY, room):
        ids.append(step.token_id)
        if is_ended(engine.vocabulary.decode(ids)):
            break
    written = engine.vocabulary.decode(ids)
    return is_right(task.kind, written, question.answer), len(prompt) < len(whole)


def _cut(ids: list[int], n: int) -> list[int]:
    """The first token and as many of the last as fit `n`."""
    return ids if len(ids) <= n else [ids[0], *ids[len(ids) - n + 1 :]]


def _n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike, at most all but the last of `b`."""
    pairs = zip(a, b[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
