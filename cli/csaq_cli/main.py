"""The `csaq` command line: arguments → one lazily imported subcommand → an exit code.

Only click is imported before the subcommand is known, so `csaq --help` is quick
and `csaq run` never meets torch.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import click

from csaq_cli.failure import report

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

EPILOG = """\b
Examples:
  csaq convert Qwen/Qwen3-0.6B --to gguf --type Q4_K_M   a model of the hub → a GGUF
  csaq run Qwen3-0.6B-Q4_K_M.gguf                        chat with it
  csaq run hf:Qwen/Qwen3-0.6B-GGUF:Q8_0                  or with one that somebody made
  csaq COMMAND --help                                    options and examples of a command

\b
Every option can be set by an environment variable: CSAQ_<COMMAND>_<OPTION>,
e.g. CSAQ_RUN_THREADS=8. NO_COLOR is respected; CSAQ_DEBUG=1 shows tracebacks.
Exit codes: 0 done, 1 run-time, 2 usage, 3 bad model, 4 resources, 130 interrupted.
"""

# name → (module, the line `csaq --help` prints without importing the module)
COMMANDS = {
    "convert": ("csaq_cli.convert", "Turn a Hugging Face model (or a 16-bit GGUF) into a GGUF."),
    "calibrate": ("csaq_cli.calibrate", "See which weights matter: statistics, imatrix."),
    "draft": ("csaq_cli.draft", "Train a head that drafts tokens, so that replies come sooner."),
    "run": ("csaq_cli.run", "Chat with a GGUF, or complete one prompt."),
    "serve": ("csaq_cli.serve", "Serve a GGUF over HTTP: OpenAI's API and a chat page."),
    "info": ("csaq_cli.info", "Show what a GGUF holds: sizes, types, metadata, memory."),
    "diff": (
        "csaq_cli.diff",
        "Show what changed between two GGUFs: keys, types, error per tensor.",
    ),
    "eval": ("csaq_cli.eval", "Measure files: perplexity, and divergence from a baseline."),
    "frontier": ("csaq_cli.frontier", "Picture what each size costs, beside llama-quantize."),
    "bench": ("csaq_cli.bench", "Measure how fast a GGUF runs, beside llama-bench if you like."),
    "warmup": ("csaq_cli.warmup", "Compile all kernels for this processor now."),
    "completion": ("csaq_cli.shell_completion", "Print a script for the shell's Tab key."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called, not to be listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of `cmd_name`; None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        """Names and lines of the table above: the Tab key must not import every command."""
        from click.shell_completion import CompletionItem

        lines = {name: line for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)}
        found = [CompletionItem(name, help=line) for name, line in lines.items()]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CSAQ"},
    epilog=EPILOG,
)
@click.version_option(package_name="csaq-export", prog_name="csaq")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Turn a Hugging Face language model into a GGUF, and run it on a CPU."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: list[str] | None = None) -> None:
    """Run `csaq` and exit: 0 ok, 1 run-time, 2 usage, 3 bad model, 4 resources, 130 interrupted."""
    try:
        with _all_ranks():
            code = cli.main(args, prog_name="csaq", standalone_mode=False)
            sys.stdout.flush()
    except BaseException as error:
        code = report(error)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _all_ranks() -> Iterator[None]:
    """Under torchrun: meet the other processes; the first alone prints, but all report failures."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from csaq_export.ranks import is_first, joined_ranks

    with joined_ranks(), ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield


if __name__ == "__main__":
    main()
