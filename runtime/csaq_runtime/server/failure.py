"""What a client is told when a request fails: OpenAI's error object and an HTTP status."""

import logging
from typing import Any

from csaq_runtime.errors import CsaqError, ResourceError, TemplateError, TokenizerError, UsageError

RETRY_SECONDS = 1


class RequestError(Exception):
    """A request that is refused; `param` names the field, `status` is the HTTP status."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


def as_request_error(error: Exception) -> RequestError:
    """The failure as a client should see it; an unexpected one is told to the log only."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UsageError | TemplateError | TokenizerError):
        return RequestError(str(error))
    if isinstance(error, ResourceError):
        return RequestError(str(error), status=503, code="server_busy")
    if isinstance(error, CsaqError):
        return RequestError(str(error), status=500, code="model_error")
    logging.getLogger("csaq").error("unexpected %s", type(error).__name__, exc_info=error)
    return RequestError("internal error", status=500, code="internal_error")


def error_object(error: RequestError) -> dict[str, Any]:
    """`{"error": …}` as OpenAI and llama.cpp clients read it."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    default = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": str(error),
            "type": kinds.get(error.status, default),
            "param": error.param,
            "code": error.code,
        }
    }


def error_headers(error: RequestError) -> dict[str, str]:
    """Headers that go with the status: when to come back, how to say who one is."""
    if error.status == 503:
        return {"retry-after": str(RETRY_SECONDS)}
    return {"www-authenticate": "Bearer"} if error.status == 401 else {}
