"""The server's life: one port, signals, slow clients, what is imported."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from csaq_runtime.server import connection as connection_module
from tests.server.conftest import running


def test_the_first_line_says_where(tiny: Path) -> None:
    with running(tiny) as server:
        assert "tiny.gguf" in server.lines[-1]
        assert f"{server.url}/v1" in server.lines[-1]
        assert server.url.startswith("http://127.0.0.1:")


def test_a_port_in_use_is_one_clear_line_and_exit_code_4(tiny: Path) -> None:
    with running(tiny) as server:
        command = [sys.executable, "-m", "csaq_cli", "serve", str(tiny), "--port", str(server.port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert second.returncode == 4
        line, hint = second.stderr.splitlines()
        assert line == f"csaq: port {server.port} of 127.0.0.1 is in use by another program"
        assert "--port" in hint
        assert server.ask("/health")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_idle_and_busy_servers_with_0(tiny: Path, number: int) -> None:
    with running(tiny, "-c", 4096, "-np", 2) as server:
        idle = server.connect()
        server.ask("/health", connection=idle)
        ends: list[str] = []
        streams = [server.connect() for _ in range(4)]
        for stream in streams:  # two run, two wait
            fields = {"prompt": "x", "n_predict": 4000, "stream": True, "ignore_eos": True}
            stream.request("POST", "/v1/completions", json.dumps(fields))
        readers = [threading.Thread(target=_read, args=(stream, ends)) for stream in streams]
        for reader in readers:
            reader.start()
        _wait_until(lambda: "jobs_active 2" in server.ask("/metrics")[1])
        started = time.monotonic()
        assert server.stop(number) == 0
        # About 2 s where nothing else runs; test machines are busy.
        assert time.monotonic() - started < 10
        for reader in readers:
            reader.join(30)
        assert len(ends) == 4
        assert all("shutting down" in end for end in ends)


def _read(stream: http.client.HTTPConnection, ends: list[str]) -> None:
    ends.append(stream.getresponse().read().decode().strip().rsplit("data: ", 1)[-1])


def _wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


SLOW = """
import sys
from csaq_runtime.server import connection
connection.HEADER_SECONDS = 0.5
from csaq_cli.main import main
main(sys.argv[1:])
"""


def test_a_client_that_never_asks_is_cut_off(tiny: Path, monkeypatch) -> None:
    assert connection_module.HEADER_SECONDS == 10
    with running(tiny, script=SLOW) as server:
        beginnings = [b"", b"POST /completion HTTP/1.1\r\nHost: loc", b"GET /health HTTP/1.1\r\n"]
        for beginning in beginnings:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
                raw.sendall(beginning)
                assert raw.recv(1) == b""
        # A second request of a connection is watched as well, a long reply is not.
        connection = server.connect()
        fields = {"prompt": "x", "n_predict": 100, "ignore_eos": True}
        assert server.ask("/completion", fields, connection=connection)[0] == 200
        assert connection.sock is not None
        connection.sock.sendall(b"GET /hea")
        assert connection.sock.recv(1) == b""
        connection.close()
        assert server.ask("/health")[0] == 200


CHECK = """
import sys
from csaq_cli.serve import serve
from csaq_runtime.server import app, run, scheduler
heavy = [name for name in ("torch", "transformers", "csaq_export") if name in sys.modules]
assert not heavy, heavy
"""


def test_the_server_imports_no_torch() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=120)
