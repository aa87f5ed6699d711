"""Mutated requests: whatever is sent, the answer is never 500, and the server lives."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Server, running

N_MUTANT = 2400
SEEDS: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "m", "messages": [{"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]}],
            "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "n": 2, "stop": ["a", "b"],
            "seed": 1, "stream": False, "stream_options": {"include_usage": True},
            "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1.5},
            "presence_penalty": 0.1, "frequency_penalty": 0.1, "response_format": {"type": "text"},
            "chat_template_kwargs": {"enable_thinking": False},
        },
    ),
    (
        "/v1/completions",
        {"prompt": ["hello", [1, 2, 3]], "max_tokens": 2, "echo": False, "logprobs": 1,
         "best_of": 1, "stream": True, "suffix": None, "user": "u"},
    ),
    (
        "/completion",
        {"prompt": "hello", "n_predict": 2, "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1,
         "repeat_last_n": 8, "n_probs": 2, "stream": False, "stop": "x", "ignore_eos": True,
         "logit_bias": [[5, 1.0], [6, False]]},
    ),
    ("/tokenize", {"content": "hello", "add_special": True, "with_pieces": True}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 1e308, -1e308, 2**31, 2**63, 2**64, 10**400, -(2**63), 0.5, "",
    "x", "\ud800", "\x00", "<|endoftext|>", "9" * 50, [], {}, [[]], [None], [1, "a"], ["", ""],
    {"": 1}, {"role": "user"}, [{"role": "x" * 100, "content": 1}], "a" * 3000, [0] * 3000,
]  # fmt: skip


def mutant(body: dict[str, Any], dice: random.Random) -> bytes:
    """`body` with fields replaced, moved, doubled or removed, and sometimes broken bytes."""
    changed = json.loads(json.dumps(body))
    for _ in range(dice.randint(1, 2)):
        _change(changed, dice)
    data = json.dumps(changed).encode()
    if dice.random() < 0.1:
        data = _damage(data, dice)
    return data


def _change(value: Any, dice: random.Random) -> None:
    """Change one place, here or deeper."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if not keys:
        return
    key = dice.choice(keys)
    if isinstance(value[key], dict | list) and dice.random() < 0.6:
        _change(value[key], dice)
    elif dice.random() < 0.15:
        del value[key]
    else:
        value[key] = dice.choice([*VALUES, value])
        if value[key] is value:
            value[key] = json.loads(json.dumps({"again": "x"}))


def _damage(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data))
    piece = dice.choice([b"", b"NaN", b"1e999", b"\xff", b"{", b"[" * 2000, b'"', b"\\u0000", b"-"])
    return data[:place] + piece + data[place + dice.randint(0, 3) :]


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    # A mutant may lose its limit, its reply then fills the context: which is small.
    with running(tiny, "-c", 48) as started:
        yield started


def test_mutated_requests_never_end_in_500(server: Server) -> None:
    dice, statuses = random.Random(1), Counter[int]()
    connection = server.connect()
    for number in range(N_MUTANT):
        path, body = SEEDS[number % len(SEEDS)]
        data = mutant(body, dice)
        status, answer = server.ask(path, data, connection=connection)
        statuses[status] += 1
        assert status in (200, 400), (status, data, answer)
        if status == 400:
            assert answer["error"]["message"], data
    connection.close()
    print(f"\n{N_MUTANT} mutants: " + ", ".join(f"{n} × {s}" for s, n in sorted(statuses.items())))
    assert min(statuses[200], statuses[400]) > N_MUTANT // 20
    fields = {"prompt": "hello", "n_predict": 3, "ignore_eos": True}
    assert server.ask("/completion", fields)[1]["tokens_predicted"] == 3
