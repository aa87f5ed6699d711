"""A request's body: bytes off the wire, bounded in size and time → one JSON object."""

import json
from typing import Any, NoReturn

from anyio import fail_after
from starlette.requests import ClientDisconnect, Request

from csaq_runtime.server.failure import RequestError
from csaq_runtime.server.fields import Fields

BODY_SECONDS = 30.0
BYTES_PER_TOKEN = 32
"""More than any text that fits into the context needs, JSON escapes included."""

BASE_BYTES = 2**20


def body_limit(n_ctx: int) -> int:
    """Most bytes of a request to a model with a context of `n_ctx` tokens."""
    return BASE_BYTES + BYTES_PER_TOKEN * n_ctx


async def read_fields(request: Request, limit: int) -> Fields:
    """The JSON object in `request`; RequestError for anything else."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared[:20]) > limit:
        raise _too_large(limit)
    try:
        with fail_after(BODY_SECONDS):
            data = await _read(request, limit)
    except TimeoutError as error:
        raise RequestError("the request's body took too long", status=408) from error
    except ClientDisconnect as error:
        raise RequestError("the client went away", status=400) from error
    return Fields(parse_object(data))


async def _read(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _too_large(limit)
    return bytes(data)


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object without NaN and infinities; RequestError names what is wrong."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise RequestError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("the body is not a JSON object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than {limit} bytes", status=413, code="too_large")
