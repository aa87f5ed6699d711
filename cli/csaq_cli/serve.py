"""`csaq serve`: a GGUF → an HTTP server with OpenAI's API and a chat page.

Never imports torch, transformers or csaq_export.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from csaq_cli.locate import find_gguf
from csaq_cli.run_options import spec_options
from csaq_runtime.errors import UsageError

if TYPE_CHECKING:
    from csaq_runtime.engine import Engine

PATH: "click.Path" = click.Path(path_type=Path)
EPILOG = """\b
Examples:
  csaq serve model.gguf                      http://127.0.0.1:8080, this machine only
  csaq serve model.gguf -np 8 -c 8192        8 replies at once, 8192 tokens each
  CSAQ_SERVE_API_KEY=secret csaq serve model.gguf --host 0.0.0.0
"""


@dataclass(frozen=True)
class ServeOptions:
    """What the command line of `csaq serve` says."""

    file: Path | None
    model: Path | None
    host: str
    port: int
    parallel: int
    ctx_size: int
    threads: int | None
    cache_type: str
    spec: str
    spec_n_max: int
    draft_model: Path | None
    alias: str | None
    api_key: tuple[str, ...]
    allow_host: tuple[str, ...]
    allow_origin: tuple[str, ...]
    quiet: bool


@click.command(epilog=EPILOG)
@click.argument("file", type=PATH, required=False)
@click.option("-m", "--model", type=PATH, help="The same as FILE.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 = a free one."
)
@click.option(
    "-np",
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Replies made at the same time; more wait in a queue.",
)
@click.option(
    "-c",
    "--ctx-size",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Tokens of context of each reply, 0 = as trained, at most 4096.",
)
@click.option("-t", "--threads", type=click.IntRange(1, 1024), help="Default: all cores.")
@click.option(
    "--cache-type",
    type=click.Choice(["f16", "f32", "q8_0"]),
    default="f16",
    show_default=True,
    help="Number format of the KV cache.",
)
@spec_options
@click.option("-a", "--alias", help="Name of the model in replies; default: that of the file.")
@click.option("--api-key", multiple=True, help="Ask clients for this key (may be repeated).")
@click.option("--allow-host", multiple=True, help="Serve requests to this host name as well.")
@click.option("--allow-origin", multiple=True, help="Web pages that may ask (CORS), * = all.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no start-up line.")
def serve(**values: Any) -> None:
    """Serve FILE over HTTP: OpenAI's API, llama.cpp's, and a chat page.

    FILE is a GGUF, a folder with exactly one, or hf:org/repo[:TAG]. Ctrl-C ends the server.
    """
    options = ServeOptions(**values)
    path = find_gguf(_chosen(options))
    from csaq_runtime.server.run import claim_address

    listener = claim_address(options.host, options.port)
    with listener:
        from csaq_cli.loading import loading_line

        progress = loading_line(options.quiet)
        from csaq_runtime.engine import Engine

        with Engine.open(
            path,
            n_ctx=options.ctx_size,
            n_threads=options.threads,
            cache_type=options.cache_type,
            n_sequence=options.parallel,
            spec=options.spec,
            n_draft=options.spec_n_max,
            draft_model=options.draft_model,
            progress=progress,
        ) as engine:
            _serve(engine, path, options, listener)


def _serve(engine: "Engine", path: Path, options: ServeOptions, listener: Any) -> None:
    from csaq_runtime.server.app import build_app
    from csaq_runtime.server.guard import Access
    from csaq_runtime.server.run import address_text
    from csaq_runtime.server.run import serve as serve_until_signal
    from csaq_runtime.server.scheduler import Scheduler

    url = address_text(listener)
    hosts = [options.host, *options.allow_host]
    access = Access(hosts, options.allow_origin, [key for key in options.api_key if key])
    scheduler = Scheduler(engine)
    app = build_app(_card(engine, path, options), scheduler, access)
    serve_until_signal(app, listener, scheduler, lambda: _announce(url, path, options))


def _card(engine: "Engine", path: Path, options: ServeOptions) -> Any:
    from csaq_runtime.server.model_card import ModelCard

    return ModelCard(
        name=options.alias or path.stem,
        path=str(path),
        vocabulary=engine.vocabulary,
        n_vocab=engine.hparams.n_vocab,
        n_ctx=engine.n_ctx,
        n_slot=len(engine.caches),
        created=int(time.time()),
    )


def _announce(url: str, path: Path, options: ServeOptions) -> None:
    """One line on stderr; a second one where anybody may ask."""
    if options.quiet:
        return
    print(f"csaq: serving {path.name} at {url} (chat: {url}/, API: {url}/v1)", file=sys.stderr)
    if options.host not in ("127.0.0.1", "localhost", "::1") and not options.api_key:
        print("csaq: anybody who reaches this address may ask; see --api-key", file=sys.stderr)
    sys.stderr.flush()


def _chosen(options: ServeOptions) -> Path:
    if options.file and options.model:
        raise UsageError("FILE and --model are both given, one is enough")
    chosen = options.file or options.model
    if chosen is None:
        raise UsageError("which model? give the path of a GGUF", "csaq serve FILE")
    return chosen
