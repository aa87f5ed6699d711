"""The options of `csaq run`, once: click decorators → one `RunOptions`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

PATH: "click.Path" = click.Path(path_type=Path)
READABLE: "click.Path" = click.Path(path_type=Path, exists=True, dir_okay=False)
UNIT = click.FloatRange(0, 1)
SPEC_KINDS = ["auto", "ngram", "head", "planes", "off"]


@dataclass(frozen=True)
class RunOptions:
    """What the command line of `csaq run` says; units and defaults as in llama.cpp."""

    file: Path | None
    model: Path | None
    prompt: str | None
    prompt_file: Path | None
    system_prompt: str
    predict: int
    ctx_size: int
    threads: int | None
    cache_type: str
    spec: str
    spec_n_max: int
    draft_model: Path | None
    seed: int
    temp: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    repeat_last_n: int
    single_turn: bool
    no_conversation: bool
    color: str
    as_json: bool
    quiet: bool


SPEC_OPTIONS = [
    click.option(
        "--spec", type=click.Choice(SPEC_KINDS), default="auto", show_default=True,
        help="Who drafts tokens ahead: faster where drafts are right, the same reply.",
    ),
    click.option(
        "--spec-n-max", type=click.IntRange(0, 64), default=15, show_default=True,
        help="Most tokens drafted at a time.",
    ),
    click.option(
        "-md", "--draft-model", type=READABLE,
        help="The head that drafts (see csaq draft). Default: the one beside FILE, if any.",
    ),
]  # fmt: skip
"""Who drafts tokens ahead; `csaq serve` has them, too."""

# In the order of `csaq run --help`.
OPTIONS = [
    click.argument("file", type=PATH, required=False),
    click.option("-m", "--model", type=PATH, help="The same as FILE."),
    click.option("-p", "--prompt", help="Answer this and end."),
    click.option("-f", "--file", "prompt_file", type=READABLE, help="Take the prompt from a file."),
    click.option("-sys", "--system-prompt", default="", help="System message of the conversation."),
    click.option(
        "-n", "--predict", "--max-tokens", type=click.IntRange(-1), default=-1, show_default=True,
        help="Most tokens of a reply, -1 = no limit but the context.",
    ),
    click.option(
        "-c", "--ctx-size", type=click.IntRange(0), default=0, show_default=True,
        help="Tokens of context, 0 = as trained, at most 4096.",
    ),
    click.option("-t", "--threads", type=click.IntRange(1, 1024), help="Default: all cores."),
    click.option(
        "--cache-type", type=click.Choice(["f16", "f32", "q8_0"]), default="f16", show_default=True,
        help="Number format of the KV cache.",
    ),
    *SPEC_OPTIONS,
    click.option(
        "-s", "--seed", type=click.IntRange(-1, 2**32 - 1), default=-1, show_default=True,
        help="Random seed, -1 = a new one each time.",
    ),
    click.option(
        "--temp", type=click.FloatRange(0, 100), default=0.8, show_default=True,
        help="Temperature, 0 = always the most likely token.",
    ),
    click.option(
        "--top-k", type=click.IntRange(0), default=40, show_default=True, help="0 = all tokens."
    ),
    click.option("--top-p", type=UNIT, default=0.95, show_default=True, help="1 = off."),
    click.option("--min-p", type=UNIT, default=0.05, show_default=True, help="0 = off."),
    click.option(
        "--repeat-penalty", type=click.FloatRange(0.01, 100), default=1.0, show_default=True,
        help="Penalty for tokens that occurred, 1 = off.",
    ),
    click.option(
        "--repeat-last-n", type=click.IntRange(-1), default=64, show_default=True,
        help="Tokens to look back for the penalty, -1 = the context.",
    ),
    click.option("-st", "--single-turn", is_flag=True, help="End the chat after one turn."),
    click.option(
        "-no-cnv", "--no-conversation", is_flag=True,
        help="Continue the prompt as plain text, without the chat template.",
    ),
    click.option(
        "--color", type=click.Choice(["on", "off", "auto"]), default="auto", show_default=True,
        help="Colors in the chat.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object, not a stream."),
    click.option("-q", "--quiet", is_flag=True, help="No progress, no figures."),
]  # fmt: skip

Result = TypeVar("Result")


def run_options(command: Callable[[RunOptions], Result]) -> Callable[..., Result]:
    """Decorate `command` with all options; it receives them as one `RunOptions`."""

    @wraps(command)
    def receive(**values: Any) -> Result:
        return command(RunOptions(**values))

    return with_options(receive, OPTIONS)


def spec_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate `command` with the options of drafting alone."""
    return with_options(command, SPEC_OPTIONS)


def with_options(
    command: Callable[..., Result], options: Sequence[Callable[..., Any]]
) -> Callable[..., Result]:
    """Decorate `command` with `options`, in the order of its help."""
    for option in reversed(options):
        command = option(command)
    return command
