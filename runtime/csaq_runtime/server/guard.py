"""Who may ask: an ASGI layer that checks Host, Origin and API key before anything is read.

A web page must not reach a server on this machine: neither by a name that resolves to it (DNS
rebinding: only IP addresses, `localhost` and names the user gave are served), nor by requests
that a browser sends from another origin.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from csaq_runtime.server.counters import Counters
from csaq_runtime.server.failure import RequestError, error_headers, error_object

OPEN_PATHS = ("/", "/health", "/v1/health")
"""Served without a key: the page, which asks for it, and whether the server is up."""


@dataclass(frozen=True)
class Access:
    """What the user allows: names in Host, origins of web pages (`*` for all), keys if any."""

    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    api_keys: Sequence[str] = ()


class Guard:
    """Passes requests on to `app`, or answers 401 or 403 itself; counts those under way."""

    def __init__(self, app: ASGIApp, access: Access, counters: Counters) -> None:
        self.app, self.access, self._counters = app, access, counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] == "http":
            try:
                check_access(self.access, scope)
            except RequestError as error:
                headers = error_headers(error)
                refusal = JSONResponse(error_object(error), error.status, headers)
                await refusal(scope, receive, send)
                return
        self._counters.n_open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._counters.n_open -= 1


def check_access(access: Access, scope: Scope) -> None:
    """Raise RequestError unless the request in `scope` may be served."""
    headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not _is_own_host(hosts[0], access.hosts):
        raise RequestError("this Host is not served here", status=403, code="host_not_allowed")
    for name, value in headers:
        if name == b"origin" and not _is_own_origin(value, hosts[0], access.origins):
            message = "requests from this origin are not allowed"
            raise RequestError(message, status=403, code="origin_not_allowed")
    if access.api_keys and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
        _check_key(access.api_keys, headers)


def _is_own_host(host: str, allowed: Sequence[str]) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        name, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    return name == "localhost" or name in [a.lower() for a in allowed] or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_own_origin(origin: str, host: str, allowed: Sequence[str]) -> bool:
    return origin in (f"http://{host}", f"https://{host}") or origin in allowed or "*" in allowed


def _check_key(keys: Sequence[str], headers: Sequence[tuple[bytes, str]]) -> None:
    """Compare in constant time: how long it takes must not tell how much of a key is right."""
    given = [value.removeprefix("Bearer ") for name, value in headers if name == b"authorization"]
    given += [value for name, value in headers if name == b"x-api-key"]
    matches = [hmac.compare_digest(g.encode(), key.encode()) for g in given for key in keys]
    if not any(matches):
        raise RequestError("the API key is missing or wrong", status=401, code="invalid_api_key")
