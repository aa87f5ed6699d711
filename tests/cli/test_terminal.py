"""The chat on a real (pseudo-)terminal, and its turns without one."""

import os
import pty
import re
import select
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from csaq_cli.chat.session import ChatSession
from csaq_cli.chat.terminal import take_turn
from csaq_runtime.sample import Sampling


def test_turn_prints_reply_on_stdout_and_footer_on_stderr(scripted, capsys):
    session = ChatSession(scripted(["fine"]), Sampling())
    assert take_turn(session, "how are you?", quiet=False)
    captured = capsys.readouterr()
    assert captured.out == "fine\n"
    assert captured.err.startswith("[ Prompt: ")


def test_quiet_turn_prints_the_reply_only(scripted, capsys):
    take_turn(ChatSession(scripted(["fine"]), Sampling()), "hello", quiet=True)
    assert capsys.readouterr() == ("fine\n", "")


@pytest.mark.parametrize("line", ["/nope", "/set temp hot", "/load /no/such/file"])
def test_mistake_is_one_line_and_the_chat_goes_on(scripted, capsys, line):
    assert take_turn(ChatSession(scripted([]), Sampling()), line, quiet=True)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_message_too_long_is_said_and_the_chat_goes_on(scripted, capsys):
    session = ChatSession(scripted([], n_ctx=30), Sampling())
    assert take_turn(session, "x" * 100, quiet=True)
    assert "context" in capsys.readouterr().err


def test_first_ctrl_c_stops_the_reply_and_keeps_what_was_said(scripted, capsys, monkeypatch):
    engine = scripted(["fine"])
    session = ChatSession(engine, Sampling())

    def interrupted(*arguments):
        yield SimpleNamespace(token_id=ord("f"))
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "generate", interrupted)
    assert take_turn(session, "how are you?", quiet=True)
    assert capsys.readouterr().out == "f\n"
    assert session.messages[-1]["content"] == "f"


def test_footer_tells_context_and_a_reply_cut_off(scripted, capsys):
    take_turn(ChatSession(scripted(["fine"]), Sampling(), n_predict=2), "hi", quiet=False)
    n_prompt = len("<user>hi<assistant>")
    wanted = f"| Context: {n_prompt + 2}/1000 | cut off: 2 tokens (-n) ]"
    assert capsys.readouterr().err.rstrip().endswith(wanted)


def test_messages_left_out_are_said_even_when_quiet(scripted, capsys):
    session = ChatSession(scripted(["fine"] * 9, n_ctx=100), Sampling())
    said = []
    for _ in range(9):
        take_turn(session, "how are you?", quiet=True)
        said.append(capsys.readouterr().err)
    assert [bool(text) for text in said] == [False, False, True, False, True] + [False, True] * 2
    assert "no longer sees the 4 oldest messages" in said[2]


def test_styles_are_for_terminals_with_colors(scripted, capsys):
    for color, shown in ((True, "\x1b[1mfine\x1b[0m\n"), (False, "**fine**\n")):
        take_turn(ChatSession(scripted(["**fine**"]), Sampling()), "hi", quiet=True, color=color)
        assert capsys.readouterr().out == shown


def test_reply_that_the_template_has_begun_with_reasoning_is_dim(scripted, capsys):
    engine = scripted(["why</think>so"], chat_template="{{ messages[0].content }}<think>\n")
    take_turn(ChatSession(engine, Sampling()), "hi", quiet=True, color=True)
    assert capsys.readouterr().out == "\x1b[2mwhy\x1b[0mso\n"


def test_bye_ends_the_chat(scripted):
    assert not take_turn(ChatSession(scripted([]), Sampling()), "/bye", quiet=True)


class Terminal:
    """`csaq` on a pseudo-terminal: type, wait for text, read the exit code."""

    def __init__(self, *arguments: object, home: Path) -> None:
        environment = {
            **os.environ, "XDG_STATE_HOME": str(home), "PROMPT_TOOLKIT_NO_CPR": "1",
            "TERM": "xterm", "NO_COLOR": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", "csaq_cli", *map(str, arguments)]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, command, environment)
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 120) -> None:
        """Read until `pattern` is there; forget what was read up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.fd], [], [], 0.5)[0]:
                self.seen += os.read(self.fd, 65536).decode("utf-8", "replace")
        self.seen = self.seen[found.end() :]

    def exit_code(self) -> int:
        """Read to the end and wait for the process."""
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:  # Linux reports the end of a pseudo-terminal as EIO
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(tiny_gguf, tmp_path):
    return Terminal("run", tiny_gguf, "-n", 8, "-s", 1, "-t", 1, home=tmp_path)


READY = r"\n?> "


def test_chat_talks_keeps_history_and_leaves_with_ctrl_d(terminal, tmp_path):
    terminal.wait_for(READY)
    terminal.type("hello\r")
    terminal.wait_for(r"\[ Prompt: .* t/s \| Generation: .* t/s \| Context: \d+/128")
    terminal.wait_for(READY)
    terminal.type('"""two\rlines"""\r')
    terminal.wait_for(r"\[ Prompt: ")
    terminal.wait_for(READY)
    terminal.type("/regen\r")
    terminal.wait_for(r"\[ Prompt: ")
    terminal.wait_for(READY)
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    assert "+hello" in (tmp_path / "csaq" / "history").read_text()


def test_ctrl_c_clears_a_line_first_and_then_leaves_with_130(terminal):
    terminal.wait_for(READY)
    terminal.type("half a thought")
    terminal.wait_for("thought")
    terminal.type("\x03")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.wait_for("csaq: interrupted")
    assert terminal.exit_code() == 130
