"""`csaq completion SHELL`: the script that makes a shell complete `csaq` on the Tab key.

The script and the answers are click's: the shell asks `csaq` itself, with `_CSAQ_COMPLETE` set,
so commands and options are always those of the installed version.
"""

import click
from click.shell_completion import CompletionItem, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CSAQ_COMPLETE"
EPILOG = """\b
Examples:
  csaq completion bash > ~/.local/share/bash-completion/completions/csaq
  csaq completion fish > ~/.config/fish/completions/csaq.fish
  csaq completion zsh > ~/.csaq-completion.zsh      and in ~/.zshrc: source it after compinit
"""


@click.command(epilog=EPILOG)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; put it where the shell looks for such scripts."""
    chosen = get_completion_class(shell)
    assert chosen is not None
    print(chosen(click.Command("csaq"), {}, "csaq", VARIABLE).source())


def complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete file names: for arguments that are a path or a name of the hub."""
    return [CompletionItem(incomplete, type="file")]


def complete_type(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Names of types and presets that begin as typed, in either case."""
    from csaq_export.presets import PRESETS

    return [CompletionItem(name) for name in PRESETS if name.startswith(incomplete.upper())]
