"""Slash commands change the session, answer, or end the chat."""

import pytest

from csaq_cli.chat.commands import COMMANDS, run_command
from csaq_cli.chat.session import ChatSession
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampling


@pytest.fixture
def session(scripted):
    return ChatSession(scripted(["one", "two"]), Sampling())


def test_help_lists_every_command(session):
    note = run_command(session, "/help").note
    assert all(name in note for name in COMMANDS)


def test_regen_streams_another_reply(session):
    "".join(session.say("a"))
    assert "".join(run_command(session, "/regen").reply) == "two"


def test_clear_forgets(session):
    "".join(session.say("a"))
    run_command(session, "/clear")
    assert session.messages == []


def test_system_sets_shows_and_removes(session):
    run_command(session, "/system be kind")
    assert run_command(session, "/system").note == "be kind"
    run_command(session, "/system none")
    assert session.system == ""


@pytest.mark.parametrize("line", ["/set temp 0.1", "/set temp=0.1", "/set  temp  0.1"])
def test_set_changes_the_sampling(session, line):
    run_command(session, line)
    assert session.sampling.temperature == 0.1
    assert "temperature = 0.1" in run_command(session, "/set").note


def test_read_sends_a_file_as_a_message(session, tmp_path):
    (tmp_path / "a question.txt").write_text("why?\n")
    assert "".join(run_command(session, f"/read {tmp_path}/a question.txt").reply) == "one"
    assert session.engine.prompts == ["<user>why?<assistant>"]


def test_save_and_load_go_round(session, tmp_path):
    "".join(session.say("a"))
    run_command(session, f"/save {tmp_path}/talk.json")
    run_command(session, "/clear")
    run_command(session, f"/load {tmp_path}/talk.json")
    assert [m["content"] for m in session.messages] == ["a", "one"]


def test_bye_leaves(session):
    assert run_command(session, "/bye").leave


@pytest.mark.parametrize("line", ["/", "/nope", "/save", "/load", "/read ", "/bye now", "/regen"])
def test_wrong_lines_are_refused(session, line):
    with pytest.raises(UsageError):
        run_command(session, line)


def test_read_refuses_bytes_that_are_no_text(session, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        run_command(session, f"/read {tmp_path}/x.bin")
