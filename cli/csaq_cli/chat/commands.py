"""Slash commands: a line that begins with `/` → a change of the session, text, or a reply."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from csaq_cli.chat.session import ChatSession
from csaq_cli.chat.settings import changed, shown
from csaq_runtime.errors import UsageError


@dataclass(frozen=True)
class Outcome:
    """What a command leads to: a note to show, a reply to stream, or the end of the chat."""

    note: str = ""
    reply: Generator[str] | None = None
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """A slash command: its argument as `/help` shows it, its purpose, and what it does."""

    argument: str
    purpose: str
    run: Callable[[ChatSession, str], Outcome]


def run_command(session: ChatSession, line: str) -> Outcome:
    """Carry out `line`; raises UsageError for an unknown command or a wrong argument."""
    name, _, argument = line.partition(" ")
    if name not in COMMANDS:
        raise UsageError(f"no command {name}", "/help lists them")
    command, argument = COMMANDS[name], argument.strip()
    if argument and not command.argument:
        raise UsageError(f"{name} takes no argument")
    if command.argument.isupper() and not argument:
        raise UsageError(f"{name} needs {command.argument}")
    return command.run(session, argument)


def _help(session: ChatSession, argument: str) -> Outcome:
    lines = [f"{f'{name} {c.argument}':<20} {c.purpose}" for name, c in COMMANDS.items()]
    lines.append(f"{'three quotes':<20} begin and end a message of several lines")
    return Outcome("\n".join(lines))


def _clear(session: ChatSession, argument: str) -> Outcome:
    session.clear()
    return Outcome("the conversation is forgotten")


def _regenerate(session: ChatSession, argument: str) -> Outcome:
    return Outcome(reply=session.regenerate())


def _system(session: ChatSession, argument: str) -> Outcome:
    if not argument:
        return Outcome(session.system or "there is no system message")
    session.set_system("" if argument == "none" else argument)
    return Outcome("the system message is set" if session.system else "the system message is gone")


def _set(session: ChatSession, argument: str) -> Outcome:
    if not argument:
        return Outcome(shown(session.sampling))
    name, _, value = argument.replace("=", " ").partition(" ")
    session.sampling = changed(session.sampling, name, value.strip())
    return Outcome(f"{name} = {value.strip()}")


def _save(session: ChatSession, argument: str) -> Outcome:
    session.save(Path(argument).expanduser())
    return Outcome(f"saved {len(session.messages)} messages in {argument}")


def _load(session: ChatSession, argument: str) -> Outcome:
    session.load(Path(argument).expanduser())
    return Outcome(f"loaded {len(session.messages)} messages from {argument}")


def _read(session: ChatSession, argument: str) -> Outcome:
    try:
        text = Path(argument).expanduser().read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"{argument}: not a text in UTF-8") from error
    return Outcome(reply=session.say(text))


def _leave(session: ChatSession, argument: str) -> Outcome:
    return Outcome(leave=True)


# An argument in capitals is required, one in brackets is not.
COMMANDS = {
    "/help": Command("", "this list", _help),
    "/clear": Command("", "forget the conversation, keep the system message", _clear),
    "/regen": Command("", "another reply to the last message", _regenerate),
    "/system": Command("[text]", "show or set the system message ('none' removes it)", _system),
    "/set": Command("[name value]", "show or set how tokens are sampled", _set),
    "/save": Command("FILE", "write the conversation as JSON", _save),
    "/load": Command("FILE", "go on with a saved conversation", _load),
    "/read": Command("FILE", "send a text file as a message", _read),
    "/bye": Command("", "leave (so does Ctrl-D)", _leave),
}
