"""From an address to an exit: claims the port, serves until a signal comes, ends every stream."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from csaq_runtime.errors import CsaqError, ResourceError, UsageError
from csaq_runtime.server.connection import Connection
from csaq_runtime.server.scheduler import Scheduler

BACKLOG, MAX_CONNECTIONS = 256, 512
SHUTDOWN_SECONDS = 2
KEEP_ALIVE_SECONDS = 30
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def claim_address(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Done before the model is loaded, which may take minutes. Raises ResourceError where another
    program has the port, UsageError for an address that is not ours.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"{host}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> CsaqError:
    if error.errno == errno.EADDRINUSE:
        return ResourceError(
            f"port {port} of {host} is in use by another program", "choose another with --port"
        )
    return UsageError(f"cannot listen on {host}, port {port}: {error.strerror}")


def address_text(listener: socket.socket) -> str:
    """The listener's address as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn's server, without its handling of signals, which would end us by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def serve(
    app: ASGIApp, listener: socket.socket, scheduler: Scheduler, ready: Callable[[], None]
) -> None:
    """Serve `app` until SIGINT or SIGTERM, then end all replies and return within about 2 s.

    `ready` is called when signals are taken care of and requests will be answered.
    """
    asyncio.run(_serve(app, listener, scheduler, ready))


async def _serve(
    app: ASGIApp, listener: socket.socket, scheduler: Scheduler, ready: Callable[[], None]
) -> None:
    server = _Server(_config(app))
    # Says so whenever a client goes away in the middle of a reply.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    loop, closing = asyncio.get_running_loop(), asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, closing.set)
    ready()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    signalled = asyncio.create_task(closing.wait())
    await asyncio.wait({serving, signalled}, return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    server.should_exit = True
    await asyncio.to_thread(scheduler.close, SHUTDOWN_SECONDS)
    await serving


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        # Clients can provoke warnings at will, and a terminal that is not read would block us.
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
