"""Many clients at once, half of which leave: the others notice nothing, nothing is left over."""

import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.server.conftest import Server

FIGURES = ("open_fds", "resident_memory_bytes")
N_CLIENT, N_ROUND, N_LEAVING = 32, 14, 32
PROMPTS = [f"client {number} says " + "abc "[: number % 5] for number in range(N_CLIENT)]


def fields(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": PROMPTS[number], "temperature": 0, "n_predict": 16, "ignore_eos": True} | more


def metric(server: Server, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", server.ask("/metrics")[1], re.MULTILINE)
    assert found
    return float(found[1])


def test_a_thousand_requests_half_of_which_are_dropped(server: Server) -> None:
    expected = [server.ask("/completion", fields(n))[1]["content"] for n in range(N_CLIENT)]
    n_asked = N_CLIENT
    wrong: list[Any] = []
    figures = []
    for number in range(N_ROUND + 2):
        n_asked += _round(server, expected, wrong, number)
        _wait_until(lambda: metric(server, "csaq_jobs_active") == 0)
        figures.append([metric(server, f"process_{name}") for name in FIGURES])
    assert not wrong, wrong[:3]
    assert n_asked >= 1000
    n_cancelled = metric(server, "csaq_cancelled_total")
    first, last = figures[N_ROUND // 2], figures[-1]
    print(
        f"\n{n_asked} requests, {n_cancelled:.0f} generations cancelled by disconnects;"
        f" descriptors {first[0]:.0f} → {last[0]:.0f},"
        f" memory {first[1] / 2**20:.1f} → {last[1] / 2**20:.1f} MiB"
    )  # fmt: skip
    assert n_cancelled > N_LEAVING
    # Nobody is still being answered, but this very question.
    assert metric(server, "csaq_requests_active") == 1
    assert len(server.lines) == 1, server.lines[1:]
    assert last[0] <= first[0] + 2
    assert last[1] <= first[1] + 4 * 2**20


def _round(server: Server, expected: list[str], wrong: list[Any], number: int) -> int:
    """32 clients that read to the end beside 32 that leave in the middle of a stream."""
    jobs: list[Callable[[], None]] = []
    for client in range(N_CLIENT):
        jobs.append(lambda client=client: _stay(server, expected, wrong, client, number % 2 == 0))
        jobs.append(lambda client=client: _leave(server, client))
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return len(jobs)


def _stay(server: Server, expected: list[str], wrong: list[Any], client: int, stream: bool) -> None:
    # A full queue is part of the game: come back as the header says.
    while True:
        status, body = server.ask("/completion", fields(client, stream=stream))
        if status != 503:
            break
        time.sleep(0.05)
    if status == 200 and stream:
        events = [json.loads(line[6:]) for line in body.split("\n\n") if line]
        body = {"content": "".join(event.get("content", str(event)) for event in events)}
    if status != 200 or body["content"] != expected[client]:
        wrong.append((status, client, body))


def _leave(server: Server, client: int) -> None:
    connection = server.connect()
    body = json.dumps(fields(client, stream=True, n_predict=400))
    connection.request("POST", "/completion", body)
    response = connection.getresponse()
    response.read(10)
    # Both hold the socket: it is closed when the last of them lets go.
    response.close()
    connection.close()


def _wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
