"""A real server in a process of its own, on a tiny random model, and clients that know it."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from csaq_runtime.gguf import open_gguf
from tests.cli.conftest import write_tiny

START = "csaq: serving "


@dataclass
class Server:
    """`csaq serve` while it runs; `lines` is what it said on stderr so far."""

    process: "subprocess.Popen[str]"
    url: str
    lines: list[str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def openai(self, **options: Any) -> openai.OpenAI:
        settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": 120}
        return openai.OpenAI(base_url=f"{self.url}/v1", **(settings | options))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(
        self,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        connection: http.client.HTTPConnection | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON (or text) of one request: POST if there is a body."""
        used = connection or self.connect()
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        used.request("GET" if data is None else "POST", path, data, headers or {})
        response = used.getresponse()
        text = response.read().decode()
        if connection is None:
            used.close()
        is_json = response.headers.get("content-type", "") == "application/json"
        return response.status, json.loads(text) if is_json else text

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose greedy replies never end by themselves: the logit of token 0 is 0."""
    path = tmp_path_factory.mktemp("served") / "tiny.gguf"
    write_tiny(path)
    with open_gguf(path) as file:
        info = file.tensors["token_embd.weight"]
    with path.open("r+b") as stream:
        stream.seek(info.offset)
        stream.write(bytes(info.n_bytes // info.shape[0]))
    return path


Start = Callable[..., "contextmanager[Server]"]


@contextmanager
def running(path: Path, *options: object, script: str = "") -> Iterator[Server]:
    """A server on a free port, killed in the end if it is still there.

    `script` stands for the command where a test changes something in the server's process.
    """
    program = ["-c", script] if script else ["-m", "csaq_cli"]
    command = [sys.executable, *program, "serve", path, "--port", 0, *options]
    process = subprocess.Popen(
        [str(part) for part in command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert process.stderr is not None
    try:
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(START):
                break
        assert "".join(lines[-1:]).startswith(START), lines
        threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True).start()
        url = lines[-1].split(" at ")[1].split(" ")[0]
        yield Server(process, url, lines)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    with running(tiny, "-np", 8, "-c", 512) as started:
        yield started
