"""Who may ask: hosts and origins, as browsers and attackers send them."""

import pytest

from csaq_runtime.server.failure import RequestError
from csaq_runtime.server.guard import Access, check_access

ACCESS = Access(hosts=("Model.Example",), origins=("https://app.example",))


def scope(host: str | None, origin: str | None = None, path: str = "/v1/models"):
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    headers += [] if origin is None else [(b"origin", origin.encode("latin-1"))]
    return {"type": "http", "path": path, "method": "GET", "headers": headers}


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "192.168.1.7", "model.example:80"],
)
def test_own_names_and_addresses_are_served(host: str) -> None:
    check_access(ACCESS, scope(host))
    check_access(ACCESS, scope(host, f"http://{host}"))


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "user@evil.example",
     "[::1", "localhost:port", "model.example.evil.example", "xn--\xff", ":80"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str | None) -> None:
    with pytest.raises(RequestError, match="Host") as caught:
        check_access(ACCESS, scope(host))
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "http://localhost:8081", "https://app.example.evil", "file://"],
)
def test_other_origins_are_refused(origin: str) -> None:
    with pytest.raises(RequestError, match="origin"):
        check_access(ACCESS, scope("localhost:8080", origin))


def test_allowed_origins_pass() -> None:
    check_access(ACCESS, scope("localhost:8080", "https://app.example"))
    check_access(Access(origins=("*",)), scope("localhost:8080", "http://anything.example"))


def test_two_hosts_are_refused() -> None:
    twice = scope("localhost")
    twice["headers"] *= 2
    with pytest.raises(RequestError, match="Host"):
        check_access(ACCESS, twice)


def test_keys_are_asked_for_but_on_open_paths() -> None:
    access = Access(api_keys=("schlüssel", "other"))
    for path in ("/", "/health"):
        check_access(access, scope("localhost", path=path))
    for name, value in ((b"authorization", "Bearer other"), (b"x-api-key", "schlüssel")):
        given = scope("localhost")
        given["headers"].append((name, value.encode("latin-1")))
        check_access(access, given)
    for value in ("", "Bearer", "Bearer othe", "Basic other"):
        given = scope("localhost")
        given["headers"].append((b"authorization", value.encode()))
        with pytest.raises(RequestError, match="key"):
            check_access(access, given)
