"""Jobs in the engine's thread → replies in the event loop, for as long as the client is there."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from anyio import fail_after
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from csaq_runtime.server.failure import RequestError, as_request_error, error_object
from csaq_runtime.server.generation import Piece
from csaq_runtime.server.job import Job
from csaq_runtime.server.reply import Asked, Choice, Json
from csaq_runtime.server.scheduler import Scheduler
from csaq_runtime.tokenizer import Vocabulary

SEND_SECONDS = 30.0
"""A client that does not read for so long is gone."""

Arrival = tuple[int, Piece | Exception]
Result = TypeVar("Result")


class Replies:
    """The generations of one request while they are made; raises ResourceError if busy.

    Iterate for (choice, piece). `cancel` must be called in the end, whatever happens.
    """

    def __init__(self, asked: Asked, scheduler: Scheduler, vocabulary: Vocabulary) -> None:
        self.choices = [Choice() for _ in asked.generations]
        self._arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._jobs = [
            Job(generation, vocabulary, partial(_deliver, loop, self._arrivals, index))
            for index, generation in enumerate(asked.generations)
        ]
        scheduler.submit(self._jobs)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        n_left = len(self.choices)
        while n_left:
            index, piece = await self._arrivals.get()
            if isinstance(piece, Exception):
                raise as_request_error(piece)
            n_left -= piece.summary is not None
            self.choices[index].add(piece)
            yield index, piece

    async def finish(self) -> Sequence[Choice]:
        """All choices, once they are complete."""
        async for _ in self:
            pass
        return self.choices

    def cancel(self) -> None:
        """Stop what is still running, and who still waits for it."""
        for job in self._jobs:
            job.cancel()
        self._arrivals.put_nowait((0, RequestError("cancelled", status=499)))


def _deliver(
    loop: asyncio.AbstractEventLoop,
    arrivals: "asyncio.Queue[Arrival]",
    index: int,
    piece: Piece | Exception,
) -> None:
    with suppress(RuntimeError):  # the loop has ended: nobody is left to tell
        loop.call_soon_threadsafe(arrivals.put_nowait, (index, piece))


class EventStream(Response):
    """A response of server-sent events, one per piece."""

    def __init__(self, replies: Replies, asked: Asked) -> None:
        super().__init__(media_type="text/event-stream")
        self._replies, self._format = replies, asked.format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or as much as the client reads."""
        with suppress(TimeoutError):
            await unless_gone(self._send_all(send), receive, self._replies.cancel)

    async def _send_all(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await _timed(send, {"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await self._send_events(send)
        except RequestError as error:
            await _send_event(send, error_object(error))
        await _timed(send, {"type": "http.response.body", "body": b""})

    async def _send_events(self, send: Send) -> None:
        for event in self._format.opening():
            await _send_event(send, event)
        async for index, piece in self._replies:
            await _send_event(send, self._format.event(index, piece))
        for last in self._format.closing(self._replies.choices):
            await _send_event(send, last)


async def _send_event(send: Send, event: Json | str) -> None:
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    body = f"data: {text}\n\n".encode("utf-8", "replace")
    await _timed(send, {"type": "http.response.body", "body": body, "more_body": True})


async def _timed(send: Send, message: Message) -> None:
    # asyncio.wait_for loses a cancellation that comes while its task ends (before Python 3.12).
    with fail_after(SEND_SECONDS):
        await send(message)


async def unless_gone(
    work: Awaitable[Result], receive: Receive, cancel: Callable[[], None]
) -> Result | None:
    """Result of `work`, None where the client disconnects before it is done.

    `cancel` is called in any case, once `work` has ended.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        cancel()
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
