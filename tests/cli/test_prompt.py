"""Messages become ids in the model's template; a prompt that does not fit is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csaq_runtime.errors import UsageError
from csaq_runtime.prompt import chat_ids, conversation, room_for_reply


def test_conversation_leaves_an_empty_system_message_out():
    assert conversation("", "hi") == [{"role": "user", "content": "hi"}]
    assert [m["role"] for m in conversation("be brief", "hi")] == ["system", "user"]


def test_chat_ids_follow_the_template(scripted):
    vocabulary = scripted([]).vocabulary
    assert vocabulary.decode(chat_ids(vocabulary, conversation("s", "u"))) == (
        "<system>s<user>u<assistant>"
    )


@pytest.mark.parametrize("template", ["{{ bos_token }}x", "x"])
def test_bos_is_there_once_whether_the_template_writes_it_or_not(scripted, template):
    vocabulary = scripted([], chat_template=template).vocabulary
    vocabulary.add_bos, vocabulary.bos_id = True, ord("#")
    assert vocabulary.decode(chat_ids(vocabulary, [])) == "#x"


@given(n_prompt=st.integers(1, 99), n_predict=st.integers(-1, 200))
def test_room_never_exceeds_context_nor_request(n_prompt, n_predict):
    room = room_for_reply(n_prompt, 100, n_predict)
    assert n_prompt + room <= 100
    assert room == 100 - n_prompt or room == n_predict


@pytest.mark.parametrize("n_prompt", [0, 100, 101])
def test_empty_and_too_long_prompts_are_refused(n_prompt):
    with pytest.raises(UsageError):
        room_for_reply(n_prompt, 100, -1)
