"""The chat on a terminal: lines in with editing and history, replies out as they come."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth

from csaq_cli.chat.commands import COMMANDS, run_command
from csaq_cli.chat.display import Styler
from csaq_cli.chat.multiline import read_message
from csaq_cli.chat.session import ChatSession
from csaq_cli.output import print_footer
from csaq_runtime.errors import CsaqError

# Tokens that surely hold a template's last mark.
PROMPT_END = 16
GREETING = "/help lists the commands, Ctrl-C stops a reply, Ctrl-D leaves."


def chat(session: ChatSession, *, color: bool, quiet: bool, single_turn: bool) -> None:
    """Talk until /bye or Ctrl-D (or for one turn); KeyboardInterrupt leaves from an empty line."""
    lines = line_reader(color)
    if not quiet:
        print(GREETING, file=sys.stderr)
    while True:
        try:
            message = read_message(lambda more: lines.prompt(_marker("… " if more else "> ")))
        except EOFError:
            return
        if message and not take_turn(session, message, quiet, color):
            return
        if message and single_turn:
            return


def take_turn(session: ChatSession, message: str, quiet: bool, color: bool = False) -> bool:
    """Answer one message or carry out one command; False ends the chat.

    With `color`, Markdown and reasoning are shown by styles (see `display`).

    What the user can mend (a full context, a wrong file name) is said and the chat goes on.
    """
    try:
        if not message.startswith("/"):
            _show(session, session.say(message), quiet, color)
            return True
        outcome = run_command(session, message)
        if outcome.note:
            print(outcome.note, file=sys.stderr)
        if outcome.reply is not None:
            _show(session, outcome.reply, quiet, color)
        return not outcome.leave
    except (CsaqError, OSError) as error:
        hint = f" ({error.hint})" if isinstance(error, CsaqError) and error.hint else ""
        print(f"csaq: {error}{hint}", file=sys.stderr)
        return True


def _show(session: ChatSession, reply: Generator[str], quiet: bool, color: bool) -> None:
    """Print `reply` as it comes; Ctrl-C ends it here, what was said so far stays."""
    if session.note:
        print(f"note: {session.note}", file=sys.stderr)
    styler = Styler(_opens_reasoning(session)) if color else None
    try:
        for piece in reply:
            print(styler.push(piece) if styler else piece, end="", flush=True)
    except KeyboardInterrupt:
        reply.close()
    print(styler.flush() if styler else "")
    if not quiet and session.completion is not None:
        print_footer(session.completion)


def _opens_reasoning(session: ChatSession) -> bool:
    """Whether the template ends the prompt with `<think>`, so that the reply goes on from there."""
    if session.completion is None:
        return False
    end = session.completion.ids[-PROMPT_END:]
    text = session.engine.vocabulary.decode(end, keep_special=True)
    return text.rstrip().endswith("<think>")


def line_reader(color: bool) -> "PromptSession[str]":
    """A line editor with history, completion of commands, and Ctrl-C that clears a line first."""
    return PromptSession(
        history=_history(),
        key_bindings=_keys(),
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_while_typing=False,
        color_depth=None if color else ColorDepth.DEPTH_1_BIT,
    )


def _marker(text: str) -> FormattedText:
    return FormattedText([("ansigreen bold", text)])


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-c")
    def clear_or_leave(event: KeyPressEvent) -> None:
        buffer: Any = event.current_buffer
        if buffer.text:
            buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt())

    return keys


def _history() -> History:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    try:
        (state / "csaq").mkdir(parents=True, exist_ok=True, mode=0o700)
        (state / "csaq" / "history").touch(mode=0o600)
    except OSError:  # a read-only home must not keep anybody from chatting
        return InMemoryHistory()
    return FileHistory(str(state / "csaq" / "history"))
