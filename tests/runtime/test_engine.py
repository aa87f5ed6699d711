"""The engine against transformers, and against itself: threads, batches, rollback, interrupts."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from csaq_runtime.engine import Engine
from csaq_runtime.errors import GGUFError, ResourceError, UsageError
from csaq_runtime.memory_limits import Limit
from csaq_runtime.sample import Sampling
from tests.runtime.tiny_models import (
    N_VOCAB,
    gguf_keys,
    gguf_tensors,
    random_model,
    reference_logits,
    write_gguf,
    write_model,
)

IDS = np.random.default_rng(5).integers(0, N_VOCAB, 70).tolist()
GREEDY = Sampling(temperature=0)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    return write_model(folder / "llama.gguf", random_model("llama"), "llama")


def error_over_spread(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(logits - expected).max() / (expected.max() - expected.min()))


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", {"num_key_value_heads": 1, "head_dim": 48}),
        ("llama", {"head_dim": 20, "hidden_size": 72, "intermediate_size": 90}),
        ("qwen2", {}),
        ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("qwen3", {"head_dim": 32}),
        ("qwen3", {"head_dim": 24, "tie_word_embeddings": True}),
    ],
)
def test_logits_equal_transformers(
    tmp_path: Path, architecture: str, changes: dict[str, Any]
) -> None:
    model = random_model(architecture, **changes)
    path = write_model(tmp_path / "model.gguf", model, architecture)
    with Engine.open(path, n_threads=2, cache_type="f32") as engine:
        logits = engine.logits(IDS)
    assert error_over_spread(logits, reference_logits(model, IDS)) < 1e-5


def test_llama3_rope_factors_equal_transformers(tmp_path: Path) -> None:
    model = random_model("llama", rope_parameters=LLAMA3)
    frequencies = 1e4 ** (-np.arange(8) / 8)
    scaled = model.model.rotary_emb.inv_freq.numpy()
    tensors = gguf_tensors(model, "llama")
    tensors["rope_freqs.weight"] = (frequencies / scaled).astype(np.float32)
    path = write_gguf(tmp_path / "model.gguf", "llama", gguf_keys(model, "llama"), tensors)
    with Engine.open(path, n_threads=1, cache_type="f32") as engine:
        logits = engine.logits(IDS)
    assert error_over_spread(logits, reference_logits(model, IDS)) < 1e-5


@pytest.mark.parametrize(("cache_type", "limit"), [("f16", 5e-3), ("q8_0", 5e-2)])
def test_a_smaller_cache_is_close(llama: Path, cache_type: str, limit: float) -> None:
    with Engine.open(llama, cache_type="f32") as single:
        exact = single.logits(IDS)
    with Engine.open(llama, cache_type=cache_type) as small:
        assert error_over_spread(small.logits(IDS), exact) < limit


def test_threads_and_batches_do_not_change_a_bit(llama: Path) -> None:
    results, tokens = [], []
    for n_threads in (1, 2, 3):
        for n_batch in (1, 7, 64):
            with Engine.open(llama, n_threads=n_threads, n_batch=n_batch) as engine:
                results.append(engine.logits(IDS))
                sampling = Sampling(seed=11, temperature=1.5)
                tokens.append([step.token_id for step in engine.generate(IDS, sampling, 20)])
    assert all((result == results[0]).all() for result in results)
    assert all(row == tokens[0] for row in tokens)
    assert len(tokens[0]) == 20


def test_greedy_generation_follows_the_logits(llama: Path) -> None:
    with Engine.open(llama) as engine:
        steps = list(engine.generate(IDS[:9], GREEDY, 12))
        tokens = [step.token_id for step in steps]
        logits = engine.logits(IDS[:9] + tokens)
    assert [step.n_past for step in steps] == list(range(9, 21))
    assert tokens == logits[8:-1].argmax(axis=1).tolist()


def test_a_common_prefix_is_computed_once_and_changes_nothing(llama: Path) -> None:
    with Engine.open(llama) as engine:
        first = [step.token_id for step in engine.generate(IDS[:30], GREEDY, 5)]
        again = [step.token_id for step in engine.generate(IDS[:30], GREEDY, 5)]
        assert engine.timings.n_prompt == 1
        assert first == again
        forked = [step.token_id for step in engine.generate([*IDS[:20], 1, 2, 3], GREEDY, 5)]
        assert engine.timings.n_prompt == 3
    with Engine.open(llama) as fresh:
        assert forked == [s.token_id for s in fresh.generate([*IDS[:20], 1, 2, 3], GREEDY, 5)]


def test_generation_ends_with_the_context(llama: Path) -> None:
    with Engine.open(llama, n_ctx=24) as engine:
        steps = list(engine.generate(IDS[:20], GREEDY, -1))
        assert [step.n_past for step in steps] == [20, 21, 22, 23]
        assert len(list(engine.generate(IDS[:20], GREEDY, 100))) == len(steps)
        assert list(engine.generate(IDS[:20], GREEDY, 0)) == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "empty"), ([0, N_VOCAB], "token ids"), ([-1], "token ids"), ([0] * 24, "does not fit")],
)
def test_senseless_prompts_are_refused(llama: Path, ids: list[int], message: str) -> None:
    with Engine.open(llama, n_ctx=24) as engine, pytest.raises(UsageError, match=message):
        engine.generate(ids, GREEDY, 1)


@pytest.mark.parametrize(
    "wrong", [{"n_ctx": -1}, {"n_batch": 0}, {"n_threads": 0}, {"cache_type": "q3"}]
)
def test_senseless_settings_are_refused(llama: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Engine.open(llama, **wrong)


def test_a_second_generation_ends_the_first(llama: Path) -> None:
    with Engine.open(llama) as engine:
        first = engine.generate(IDS[:5], GREEDY, 5)
        next(first)
        engine.logits(IDS[:3])
        with pytest.raises(UsageError, match="another generation"):
            next(first)


def test_too_little_memory_is_said_before_loading(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Limit(2**20, "container limit")
    monkeypatch.setattr("csaq_runtime.memory_limits.available_memory", lambda: few)
    sums = r"needs about \d+ MiB of memory \(weights 0 MiB \+ context 0 MiB \+ buffers \d+ MiB\)"
    with pytest.raises(ResourceError, match=f"{sums}, 1 MiB are available .container limit"):
        Engine.open(llama)


def interrupt(engine: Engine, delay: float) -> None:
    """Run until a Ctrl-C, `delay` seconds from now, gets through."""
    timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
    end = time.monotonic() + 30
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        timer.start()
        while time.monotonic() < end:
            engine.logits(IDS)
    timer.join()


def test_an_interrupt_leaves_the_engine_usable(llama: Path) -> None:
    with Engine.open(llama, n_batch=1) as engine:
        expected = engine.logits(IDS)
        for delay in (0.0, 0.001, 0.003, 0.01):
            interrupt(engine, delay)
            assert (engine.logits(IDS) == expected).all()


def test_a_file_cut_short_while_it_runs_is_an_error_and_no_sigbus(
    llama: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(llama.read_bytes())
    with Engine.open(path) as engine:
        steps = engine.generate(IDS[:5], GREEDY, 20)
        next(steps)
        os.truncate(path, 4096)
        with pytest.raises(GGUFError, match=r"token_embd\.weight: the file has become shorter"):
            list(steps)


def test_closing_the_engine_ends_a_generation_under_way(llama: Path) -> None:
    engine = Engine.open(llama)
    steps, waiting = engine.generate(IDS[:5], GREEDY, 20), engine.generate(IDS[:5], GREEDY, 20)
    next(waiting)
    engine.close()
    engine.close()
    for generation in (steps, waiting, engine.generate):
        with pytest.raises(UsageError, match="is closed"):
            generation(IDS, GREEDY, 1) if callable(generation) else next(generation)


def test_two_engines_of_a_process_run_at_once(llama: Path) -> None:
    expected = {}
    with Engine.open(llama, n_threads=1) as engine:
        for n in (5, 40):
            expected[n] = [step.token_id for step in engine.generate(IDS[:n], GREEDY, 30)]

    def run(n: int) -> list[list[int]]:
        with Engine.open(llama, n_threads=2) as engine:
            return [[s.token_id for s in engine.generate(IDS[:n], GREEDY, 30)] for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        futures = {n: pool.submit(run, n) for n in (5, 40)}
        for n, future in futures.items():
            assert future.result(timeout=60) == [expected[n]] * 5


KILLED_BY_INTERRUPTS = """
import signal, sys, threading, time
from csaq_runtime.engine import Engine
from csaq_runtime.sample import Sampling
engine = Engine.open(sys.argv[1], n_threads=2)
prompt, greedy, n = list(range(60)), Sampling(temperature=0), 0
expected = [step.token_id for step in engine.generate(prompt, greedy, 20)]
main = threading.main_thread().ident
done = threading.Event()

def annoy():
    while not done.wait(0.004):
        signal.pthread_kill(main, signal.SIGINT)

other = Engine.open(sys.argv[1], n_threads=2)
beside = threading.Thread(target=lambda: [other.logits(prompt) for _ in range(200)])
annoying = threading.Thread(target=annoy)
beside.start()
annoying.start()
end = time.monotonic() + 3
while time.monotonic() < end:
    try:
        while time.monotonic() < end:
            list(engine.generate(prompt, greedy, 20))
    except KeyboardInterrupt:
        n += 1
while True:
    try:
        done.set()
        annoying.join()
        beside.join()
        break
    except KeyboardInterrupt:
        n += 1
assert n > 50, n
assert [step.token_id for step in engine.generate(prompt, greedy, 20)] == expected
engine.close()
other.close()
"""


def test_hundreds_of_interrupts_neither_hang_nor_abort_nor_change_a_token(llama: Path) -> None:
    command = [sys.executable, "-c", KILLED_BY_INTERRUPTS, str(llama)]
    subprocess.run(command, check=True, timeout=120)


FORK_AFTER_IMPORT = """
import os, sys
from csaq_runtime.engine import Engine
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        with Engine.open(sys.argv[1], n_threads=2) as engine:
            os.write(1, repr(engine.logits([1, 2, 3]).sum()).encode() + b"\\n")
        os._exit(0)
    children.append(child)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
"""


def test_children_forked_after_the_import_open_engines_of_their_own(llama: Path) -> None:
    command = [sys.executable, "-c", FORK_AFTER_IMPORT, str(llama)]
    done = subprocess.run(command, check=True, timeout=120, stdout=subprocess.PIPE)
    lines = done.stdout.split()
    assert len(lines) == 3
    assert len(set(lines)) == 1


CHILD = """
import os, sys
from csaq_runtime.engine import Engine
engine = Engine.open(sys.argv[1], n_threads=2)
expected = engine.logits([1, 2, 3])
child = os.fork()
if child == 0:
    os._exit(0 if (engine.logits([1, 2, 3]) == expected).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert (engine.logits([1, 2, 3]) == expected).all()
slow = ("numba", "torch", "transformers", "jinja2", "importlib.metadata")
loaded = [name for name in slow if name in sys.modules]
assert not loaded, loaded
"""


def test_a_forked_child_computes_and_a_warm_start_needs_no_compiler(llama: Path) -> None:
    with Engine.open(llama) as engine:  # fills the object cache
        engine.logits([1])
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", CHILD, str(llama)]
    subprocess.run(command, check=True, timeout=120, env=environment)
