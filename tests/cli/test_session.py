"""A conversation without a terminal: history, another reply, forgetting, saving."""

import json

import pytest

from csaq_cli.chat.session import ChatSession
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampling


@pytest.fixture
def session(scripted):
    return ChatSession(scripted(["one", "two", "three"]), Sampling(seed=5))


def test_second_turn_sees_the_first(session):
    assert "".join(session.say("a")) == "one"
    assert "".join(session.say("b")) == "two"
    assert session.engine.prompts[1] == "<user>a<assistant>one<user>b<assistant>"


def test_regenerate_asks_the_same_and_replaces_the_reply(session):
    "".join(session.say("a"))
    assert "".join(session.regenerate()) == "two"
    assert session.engine.prompts[0] == session.engine.prompts[1]
    assert [m["content"] for m in session.messages] == ["a", "two"]
    assert session.sampling.seed == 6


def test_regenerate_without_a_reply_is_refused(session):
    with pytest.raises(UsageError):
        session.regenerate()


def test_clear_keeps_the_system_message(session):
    session.set_system("be brief")
    "".join(session.say("a"))
    session.clear()
    assert session.messages == [{"role": "system", "content": "be brief"}]
    session.set_system("")
    assert session.messages == []


def test_interrupted_reply_is_kept_as_far_as_it_got(session):
    reply = session.say("a")
    assert next(reply) + next(reply) == "on"
    reply.close()
    assert session.messages[-1] == {"role": "assistant", "content": "on"}


def test_message_that_does_not_fit_leaves_the_conversation_as_it_was(scripted):
    session = ChatSession(scripted(["one"], n_ctx=40), Sampling())
    "".join(session.say("a"))
    before = list(session.messages)
    with pytest.raises(UsageError):
        session.say("x" * 100)
    assert session.messages == before


def test_full_context_leaves_out_the_oldest_turns_but_saves_them(scripted, tmp_path):
    session = ChatSession(scripted(["one", "two", "three"], n_ctx=84), Sampling(), system="be kind")
    for text in ("first", "second", "third"):
        "".join(session.say(text))
    prompts = session.engine.prompts
    assert "first" in prompts[1]
    assert prompts[2] == "<system>be kind<user>third<assistant>"
    assert session.n_left_out == 4
    session.save(tmp_path / "talk.json")
    assert "first" in (tmp_path / "talk.json").read_text()
    session.clear()
    assert session.n_left_out == 0


def test_saved_conversation_loads_again(session, scripted, tmp_path):
    "".join(session.say("größer 🦊"))
    session.save(tmp_path / "talk.json")
    other = ChatSession(scripted([]), Sampling())
    other.load(tmp_path / "talk.json")
    assert other.messages == session.messages
    assert list(tmp_path.iterdir()) == [tmp_path / "talk.json"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"messages": 3}', '{"messages": [1]}', '{"messages": [{"role": "user"}]}',
     '{"messages": [{"role": "root", "content": "x"}]}', "[" * 100000,
     '{"messages": [{"role": "user", "content": 7}]}'],
)  # fmt: skip
def test_load_refuses_what_is_no_conversation(session, tmp_path, content):
    path = tmp_path / "talk.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"talk\.json"):
        session.load(path)
    assert session.messages == []


def test_saved_file_holds_the_sampling_too(session, tmp_path):
    session.save(tmp_path / "talk.json")
    assert json.loads((tmp_path / "talk.json").read_text())["sampling"]["seed"] == 5
