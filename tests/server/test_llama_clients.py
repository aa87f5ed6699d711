"""llama.cpp-style clients over a bare HTTP connection, and what all requests have in common."""

import json
import socket

from tests.server.conftest import Server, running


def complete(server: Server, **fields):
    status, body = server.ask("/completion", {"prompt": "hello", "temperature": 0} | fields)
    assert status == 200, body
    return body


def test_completion_says_what_it_did(server: Server) -> None:
    body = complete(server, n_predict=9, cache_prompt=True, unknown_field={"x": [1]})
    assert body["stop"] is True
    assert body["stop_type"] == "limit"
    assert len(body["tokens"]) == body["tokens_predicted"] == 9
    assert body["tokens_evaluated"] == 6
    assert body["timings"]["predicted_n"] == 9
    assert body["timings"]["cache_n"] + body["timings"]["prompt_n"] == 6


def test_completion_streams_events_without_done(server: Server) -> None:
    whole = complete(server, n_predict=20)["content"]
    status, text = server.ask(
        "/completion", {"prompt": "hello", "temperature": 0, "n_predict": 20, "stream": True}
    )
    assert status == 200
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    assert "".join(event["content"] for event in events) == whole
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]


def test_completion_stops_at_a_word_and_reports_probabilities(server: Server) -> None:
    whole = complete(server, n_predict=30)["content"]
    body = complete(server, n_predict=30, stop=[whole[5:7]], n_probs=2)
    assert (body["stop_type"], body["stopping_word"]) == ("word", whole[5:7])
    assert all(len(t["top_logprobs"]) == 2 for t in body["completion_probabilities"])


def test_tokenize_and_detokenize_are_inverse(server: Server) -> None:
    text = "héllo <user> \N{PARTY POPPER}"
    _, body = server.ask("/tokenize", {"content": text})
    assert server.ask("/detokenize", body) == (200, {"content": text})
    _, pieces = server.ask("/tokenize", {"content": "é", "with_pieces": True})
    assert [token["piece"] for token in pieces["tokens"]] == [[0xC3], [0xA9]]
    _, special = server.ask("/tokenize", {"content": "a", "add_special": True})
    assert special["tokens"][0] == 0


def test_props_describe_the_server(server: Server) -> None:
    status, body = server.ask("/props")
    assert status == 200
    assert body["total_slots"] == 8
    assert body["default_generation_settings"]["n_ctx"] == 512
    assert "messages" in body["chat_template"]


def test_metrics_count_and_parse(server: Server) -> None:
    complete(server, n_predict=3)
    status, text = server.ask("/metrics")
    assert status == 200
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
    assert values["csaq_generated_tokens_total"] >= 3
    assert values["csaq_jobs_active"] == values["csaq_jobs_waiting"] == 0
    assert values['csaq_requests_total{path="/completion",status="200"}'] >= 1
    described = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert described == {name.split("{")[0] for name in values}


def test_unknown_paths_and_methods_are_error_objects(server: Server) -> None:
    for path, body, expected in (("/v2", None, 404), ("/completion", None, 405), ("/", {}, 405)):
        status, answer = server.ask(path, body)
        assert status == expected
        assert answer["error"]["message"]


def test_bodies_that_are_no_json_objects_are_refused(server: Server) -> None:
    bodies = [
        b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"prompt": NaN}', b'{"a": Infinity}',
        b'{"temperature": 1e999, "prompt": "x"}', b'{"seed": ' + b"9" * 5000 + b', "prompt": "x"}',
        b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"prompt": [1, 258]}', b'{"prompt": [-1]}', b'{"prompt": [1e99]}', b'{"prompt": [true]}',
        b'{"prompt": "x", "n_predict": 1e300}', b'{"prompt": "x", "top_k": 1.5}',
        b'{"prompt": "x", "stop": [1]}', b'{"prompt": "x", "logit_bias": [[1e99, 1]]}',
    ]  # fmt: skip
    for body in bodies:
        status, answer = server.ask("/completion", body)
        assert status == 400, (body[:40], answer)
        assert answer["error"]["type"] == "invalid_request_error"


def test_large_bodies_are_refused_before_they_are_read(server: Server) -> None:
    status, answer = server.ask("/completion", b" " * (2**20 + 32 * 512 + 1))
    assert (status, answer["error"]["code"]) == (413, "too_large")

    def chunks():
        for _ in range(40):
            yield b" " * 2**16

    connection = server.connect()
    connection.request("POST", "/completion", chunks(), encode_chunked=True,
                       headers={"transfer-encoding": "chunked"})  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()
    for length in ("-1", "1e9", "99999999999999999999999", "x"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            head = f"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n"
            raw.sendall(f"{head}\r\n{{}}".encode())
            assert raw.recv(100).split()[1] in (b"400", b"413")


def test_browsers_of_other_sites_are_refused(server: Server) -> None:
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
        status, answer = server.ask("/completion", {"prompt": "x", "n_predict": 1}, headers)
        assert (status, answer["error"]["type"]) == (403, "permission_error")
    own = {"origin": f"http://127.0.0.1:{server.port}"}
    assert server.ask("/completion", {"prompt": "x", "n_predict": 1}, own)[0] == 200


def test_allowed_origins_get_cors_headers_and_others_none(tiny) -> None:
    origin = "https://app.example"
    with running(tiny, "--allow-origin", origin, "--allow-host", "model.example") as server:
        connection = server.connect()
        asked = {"origin": origin, "host": "model.example", "access-control-request-method": "POST"}
        connection.request("OPTIONS", "/v1/completions", headers=asked)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        assert response.headers["access-control-allow-origin"] == origin
        connection.request("GET", "/v1/models")
        assert "access-control-allow-origin" not in connection.getresponse().headers
        connection.close()
