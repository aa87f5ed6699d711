"""The web application: which path does what, and how failures are said."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from csaq_runtime.server.body import body_limit, read_fields
from csaq_runtime.server.chat_api import read_chat
from csaq_runtime.server.counters import metrics_text
from csaq_runtime.server.failure import (
    RequestError,
    as_request_error,
    error_headers,
    error_object,
)
from csaq_runtime.server.fields import Fields
from csaq_runtime.server.guard import Access, Guard
from csaq_runtime.server.llama_api import detokenize, props, read_completion, tokenize
from csaq_runtime.server.model_card import ModelCard
from csaq_runtime.server.page import chat_page
from csaq_runtime.server.reply import Asked
from csaq_runtime.server.scheduler import Scheduler
from csaq_runtime.server.stream import EventStream, Replies, unless_gone
from csaq_runtime.server.text_api import read_text

Endpoint = Callable[[Request], Awaitable[Response]]
Read = Callable[[Fields, ModelCard], Asked]
Compute = Callable[[Fields, ModelCard], dict[str, Any]]


def build_app(card: ModelCard, scheduler: Scheduler, access: Access) -> ASGIApp:
    """The ASGI application that serves one model."""
    service = _Service(card, scheduler)
    app = Starlette(
        routes=_routes(service),
        middleware=_cross_origin(access.origins),
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )
    return Guard(app, access, scheduler.counters)


def _cross_origin(origins: Sequence[str]) -> list[Middleware]:
    """CORS headers for the origins the user allows; none are sent otherwise."""
    if not origins:
        return []
    allow_all = ["*"]
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=allow_all,
            allow_headers=allow_all,
        )
    ]


def _routes(service: "_Service") -> list[Route]:
    posts: dict[str, Endpoint] = {
        "/v1/chat/completions": service.generating(read_chat),
        "/v1/completions": service.generating(read_text),
        "/completion": service.generating(read_completion),
        "/tokenize": service.computing(tokenize),
        "/detokenize": service.computing(detokenize),
    }
    posts["/chat/completions"] = posts["/v1/chat/completions"]
    posts["/completions"] = posts["/v1/completions"]
    gets: dict[str, Endpoint] = {
        "/": service.page,
        "/health": service.health,
        "/v1/health": service.health,
        "/metrics": service.metrics,
        "/props": service.props,
        "/v1/models": service.models,
        "/models": service.models,
    }
    return [
        *(Route(path, service.counted(path, end), methods=["POST"]) for path, end in posts.items()),
        *(Route(path, service.counted(path, end), methods=["GET"]) for path, end in gets.items()),
        Route("/v1/models/{name:path}", service.counted("/v1/models", service.model)),
    ]


class _Service:
    """The endpoints of one model."""

    def __init__(self, card: ModelCard, scheduler: Scheduler) -> None:
        self._card, self._scheduler = card, scheduler
        self._limit = body_limit(card.n_ctx)

    def counted(self, path: str, endpoint: Endpoint) -> Endpoint:
        """`endpoint` with failures as error objects, and every answer counted."""

        async def answer(request: Request) -> Response:
            try:
                response = await endpoint(request)
            except Exception as error:
                response = _failure(as_request_error(error))
            self._scheduler.counters.requests[path, response.status_code] += 1
            return response

        return answer

    def generating(self, read: Read) -> Endpoint:
        """An endpoint that streams or collects what the request asks for."""

        async def answer(request: Request) -> Response:
            asked = await self._asked(request, read)
            replies = Replies(asked, self._scheduler, self._card.vocabulary)
            if asked.stream:
                return EventStream(replies, asked)
            choices = await unless_gone(replies.finish(), request.receive, replies.cancel)
            return Response() if choices is None else JSONResponse(asked.format.whole(choices))

        return answer

    def computing(self, compute: Compute) -> Endpoint:
        """An endpoint that needs no engine."""

        async def answer(request: Request) -> Response:
            fields = await read_fields(request, self._limit)
            return JSONResponse(await asyncio.to_thread(compute, fields, self._card))

        return answer

    async def _asked(self, request: Request, read: Read) -> Asked:
        """Templates and tokenizers take their time, so they run beside the event loop."""
        fields = await read_fields(request, self._limit)
        return await asyncio.to_thread(read, fields, self._card)

    async def page(self, request: Request) -> Response:
        """The chat page."""
        return chat_page()

    async def health(self, request: Request) -> Response:
        """Whether the server is up."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        scheduler = self._scheduler
        text = metrics_text(scheduler.counters, scheduler.n_active, scheduler.n_waiting)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def props(self, request: Request) -> Response:
        """llama.cpp's description of the server."""
        return JSONResponse(props(self._card))

    async def models(self, request: Request) -> Response:
        """The one model there is, as a list."""
        return JSONResponse({"object": "list", "data": [self._model_object()]})

    async def model(self, request: Request) -> Response:
        """The model, asked for by its name."""
        if request.path_params["name"] != self._card.name:
            raise RequestError("there is no such model", "model", 404, "model_not_found")
        return JSONResponse(self._model_object())

    def _model_object(self) -> dict[str, Any]:
        card = self._card
        meta = {"n_vocab": card.n_vocab, "n_ctx": card.n_ctx}
        return {
            "id": card.name,
            "object": "model",
            "created": card.created,
            "owned_by": "csaq",
            "meta": meta,
        }


def _failure(error: RequestError) -> Response:
    return JSONResponse(error_object(error), error.status, error_headers(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    refusal = RequestError(error.detail, status=error.status_code)
    return JSONResponse(error_object(refusal), error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _failure(as_request_error(error))
