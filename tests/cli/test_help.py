"""`--help` of every command: what it is for, its options, and examples that exist."""

import re
import shlex

import click
import pytest

from csaq_cli.main import COMMANDS, cli


def examples(command: click.Command) -> list[list[str]]:
    """Words of each `csaq …` line below Examples; two spaces end a command."""
    _, _, lines = (command.epilog or "").partition("Examples:\n")
    commands = re.findall(r"(?:^  (?:\w+=\S+ )?|\| )(csaq .*?)(?:  |$)", lines, re.MULTILINE)
    return [shlex.split(line.split(" > ")[0])[1:] for line in commands]


def command_named(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None, name
    return found


def parse(words: list[str]) -> None:
    """Raise what click raises for a command or option that does not exist."""
    command = command_named(words[0]) if words[0] != "COMMAND" else cli
    context = click.Context(command, info_name=words[0])
    command.make_parser(context).parse_args(list(words[1:]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples_whose_options_exist(name):
    found = examples(command_named(name))
    assert any(words[0] == name for words in found)
    for words in found:
        parse(words)


def test_examples_of_the_group_exist():
    found = examples(cli)
    assert len(found) >= 3
    for words in found:
        parse(words)


def test_an_example_with_an_option_that_is_not_there_would_be_found():
    command = click.Command(
        "x", epilog="Examples:\n  csaq run model.gguf --no-such-option   what\n"
    )
    with pytest.raises(click.NoSuchOption):
        parse(examples(command)[0])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_command_says_what_it_is_for(name):
    command = command_named(name)
    assert command.help
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert [o.name for o in options if not o.help and not isinstance(o.type, click.Choice)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_examples_as_they_are_written(name):
    # One line per example, not refilled into a paragraph: that is what \b in an epilog does.
    command = command_named(name)
    shown = command.get_help(click.Context(command, info_name=name, max_content_width=120))
    lines = [line.strip() for line in command.epilog.splitlines() if "csaq" in line]
    assert all(line in shown for line in lines)
