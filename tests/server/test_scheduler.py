"""Jobs that share steps: each reply as if it were alone; prefixes, cancellation, a full queue."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from csaq_runtime.engine import Engine
from csaq_runtime.errors import ResourceError
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.server.generation import Generation, Piece, Summary
from csaq_runtime.server.job import Job
from csaq_runtime.server.placement import WORTH_WAITING
from csaq_runtime.server.scheduler import Scheduler
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.strategy import Fixed

GREEDY = Sampling(temperature=0)
RANDOM = np.random.default_rng(11)
PROMPTS = [RANDOM.integers(1, 257, n).tolist() for n in (3, 40, 17, 60, 5, 33, 90, 1)]
N_PREDICT = 48


class Client:
    """Waits for a job's pieces."""

    def __init__(self, engine: Engine, generation: Generation) -> None:
        self.pieces: list[Piece] = []
        self.error: Exception | None = None
        self._ended, self._began = threading.Event(), threading.Event()
        self.job = Job(generation, engine.vocabulary, self._take)

    def _take(self, piece: Piece | Exception) -> None:
        if isinstance(piece, Exception):
            self.error = piece
        else:
            self.pieces.append(piece)
        self._began.set()
        if self.error or self.pieces[-1].summary:
            self._ended.set()

    def wait(self) -> Summary:
        assert self._ended.wait(120)
        if self.error:
            raise self.error
        summary = self.pieces[-1].summary
        assert summary is not None
        return summary

    def wait_for_text(self) -> None:
        assert self._began.wait(120)

    @property
    def ids(self) -> list[int]:
        return [id for piece in self.pieces for id in piece.token_ids]


@pytest.fixture
def engine(tiny: Path) -> Iterator[Engine]:
    with Engine.open(tiny, n_ctx=256, n_threads=2, n_sequence=8, n_batch=64) as opened:
        yield opened


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    started = Scheduler(engine, max_waiting=4)
    yield started
    started.close()


def generation(ids: list[int], sampling: Sampling = GREEDY, n: int = N_PREDICT) -> Generation:
    return Generation(ids, sampling, n, ignore_eos=True)


def alone(tiny: Path, sampling: Sampling) -> list[list[int]]:
    """What the engine itself generates, one prompt after the other, nothing shared."""
    replies = []
    with Engine.open(tiny, n_ctx=256, n_threads=1) as engine:
        object.__setattr__(engine.vocabulary, "eog_ids", frozenset())
        for ids in PROMPTS:
            engine.logits([0])
            replies.append([step.token_id for step in engine.generate(ids, sampling, N_PREDICT)])
    return replies


def check_replies(
    engine: Engine,
    scheduler: Scheduler,
    sampling: Sampling,
    expected: list[list[int]],
    n_together: int,
) -> None:
    """All prompts, `n_together` at a time, bring what is expected."""
    for start in range(0, 8, n_together):
        some = PROMPTS[start : start + n_together]
        clients = [Client(engine, generation(ids, sampling)) for ids in some]
        scheduler.submit([client.job for client in clients])
        for client, reply in zip(clients, expected[start:], strict=False):
            assert client.wait().n_generated == N_PREDICT
            assert client.ids == reply


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.2, seed=5)])
def test_replies_are_the_same_alone_and_among_eight(tiny, engine, scheduler, sampling) -> None:
    expected = alone(tiny, sampling)
    for n_together in (1, 8):
        check_replies(engine, scheduler, sampling, expected, n_together)
    assert scheduler.counters.n_generated == 16 * N_PREDICT


class MostlyRight:
    """Knows all replies, but every seventh token is another one."""

    name, wants_hidden = "known", False

    def __init__(self, texts: list[list[int]]) -> None:
        self.texts = texts

    def begin(self, sampler: Sampler) -> None:
        pass

    def propose(self, context: list[int], n: int, hidden: None) -> Draft:
        start = len(context)
        text = next(text for text in self.texts if text[:start] == context)
        return Draft([id + (start + i) % 7 // 6 for i, id in enumerate(text[start : start + n])])


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.6, seed=5)])
def test_replies_are_the_same_with_drafts(tiny, engine, scheduler, sampling) -> None:
    """One client after the other drafts four tokens at a time; two at once draft nothing."""
    expected = alone(tiny, sampling)
    engine.strategy = Fixed(MostlyRight([*map(list.__add__, PROMPTS, expected)]), 4)
    for n_together in (1, 2):
        before = scheduler.counters.n_step
        check_replies(engine, scheduler, sampling, expected, n_together)
        n_step = scheduler.counters.n_step - before
        assert n_step < 0.5 * 8 * N_PREDICT if n_together == 1 else n_step > 4 * (N_PREDICT - 1)


def test_eight_share_their_steps(engine, scheduler) -> None:
    clients = [Client(engine, generation(ids)) for ids in PROMPTS]
    scheduler.submit([client.job for client in clients])
    for client in clients:
        client.wait()
    assert scheduler.counters.n_step < 2 * N_PREDICT


def test_a_prompt_that_begins_alike_is_computed_from_where_it_differs(engine, scheduler) -> None:
    shared = RANDOM.integers(1, 257, 100).tolist()
    first = Client(engine, generation([*shared, 1, 2, 3]))
    scheduler.submit([first.job])
    assert first.wait().n_cached == 0
    # The conversation goes on, in place; others begin with the same text, in copies.
    turn = Client(engine, generation([*shared, 1, 2, 3, *first.ids[:-1], 9]))
    scheduler.submit([turn.job])
    assert turn.wait().n_cached == 103 + N_PREDICT - 1
    others = [Client(engine, generation([*shared, 4, number])) for number in range(4)]
    scheduler.submit([client.job for client in others])
    for client in others:
        assert client.wait().n_cached >= 100
    with Engine.open(engine.file.path, n_ctx=256, n_threads=1) as fresh:
        object.__setattr__(fresh.vocabulary, "eog_ids", frozenset())
        for number, client in enumerate(others):
            steps = fresh.generate([*shared, 4, number], GREEDY, N_PREDICT)
            assert client.ids == [step.token_id for step in steps]


def test_the_same_new_prompt_asked_at_once_is_computed_once(engine, scheduler) -> None:
    ids = RANDOM.integers(1, 257, 120).tolist()
    clients = [Client(engine, generation(ids, n=4)) for _ in range(8)]
    scheduler.submit([client.job for client in clients])
    first, *others = sorted(client.wait().n_cached for client in clients)
    assert first == 0
    assert others[0] > 119 - WORTH_WAITING
    assert scheduler.counters.n_prompt < 120 + 7 * (1 + WORTH_WAITING)


def test_who_is_cancelled_frees_the_slot_and_disturbs_nobody(tiny, engine, scheduler) -> None:
    expected = alone(tiny, GREEDY)
    gone = [Client(engine, generation(ids, n=150)) for ids in PROMPTS[:4]]
    kept = [Client(engine, generation(ids)) for ids in PROMPTS[4:]]
    scheduler.submit([client.job for client in gone + kept])
    for client in gone:
        client.wait_for_text()
        client.job.cancel()
    for client, reply in zip(kept, expected[4:], strict=True):
        client.wait()
        assert client.ids == reply
    last = Client(engine, generation(PROMPTS[0]))
    scheduler.submit([last.job])
    last.wait()
    assert last.ids == expected[0]
    assert (scheduler.n_active, scheduler.counters.n_cancelled) == (0, 4)


def test_a_full_queue_refuses_all_or_nothing(engine, scheduler) -> None:
    clients = [Client(engine, generation([1, 2, 3])) for _ in range(12)]
    scheduler.submit([client.job for client in clients])
    late = [Client(engine, generation([1, 2, 3])) for _ in range(13)]
    with pytest.raises(ResourceError, match="busy"):
        scheduler.submit([client.job for client in late])
    for client in clients:
        client.wait()
    assert not any(client.pieces for client in late)


def test_a_model_that_computes_nonsense_fails_its_jobs_and_no_more(engine, scheduler) -> None:
    step = engine.step
    engine.step = lambda spans: (_ for _ in ()).throw(ZeroDivisionError("kernel"))
    client = Client(engine, generation([1, 2, 3]))
    scheduler.submit([client.job])
    with pytest.raises(ZeroDivisionError):
        client.wait()
    engine.step = step
    again = Client(engine, generation([1, 2, 3]))
    scheduler.submit([again.job])
    assert again.wait().n_generated == N_PREDICT


def test_closing_ends_what_runs_and_what_waits(engine, scheduler) -> None:
    clients = [Client(engine, generation([1, 2, 3], n=250)) for _ in range(12)]
    scheduler.submit([client.job for client in clients])
    clients[0].wait_for_text()
    scheduler.close()
    for client in clients:
        with pytest.raises(Exception, match="shutting down"):
            client.wait()
    with pytest.raises(ResourceError, match="shutting down"):
        scheduler.submit([clients[0].job])
