"""The official `openai` client, unchanged: chat, completion, streams, logprobs, stop, errors."""

import math

import openai
import pytest

from tests.server.conftest import Server, running

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.openai()


def chat(client: openai.OpenAI, **options):
    settings = {"model": "any", "messages": HELLO, "temperature": 0, "max_tokens": 12}
    return client.chat.completions.create(**(settings | options))


def test_models_are_listed_and_found_by_name(client) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").owned_by == "csaq"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_chat_replies_and_counts_its_tokens(client) -> None:
    reply = chat(client)
    (choice,) = reply.choices
    assert reply.model == "tiny"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert reply.usage.completion_tokens == 12
    # "<user>hello<assistant>" is a token per byte, after the BOS token.
    assert reply.usage.prompt_tokens == 1 + len("<user>hello<assistant>")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 12


def test_a_stream_spells_the_same_reply(client) -> None:
    whole = chat(client, max_tokens=30).choices[0].message.content
    chunks = list(chat(client, max_tokens=30, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole
    assert len([text for text in texts if text]) > 5
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 30


def test_a_stream_without_usage_has_none(client) -> None:
    assert all(chunk.usage is None for chunk in chat(client, stream=True))


def test_logprobs_are_those_of_the_tokens_that_were_drawn(client) -> None:
    choice = chat(client, logprobs=True, top_logprobs=3).choices[0]
    assert len(choice.logprobs.content) == 12
    for token in choice.logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        # Greedy: the drawn token is the likeliest.
        assert token.top_logprobs[0].logprob == token.logprob
        assert token.top_logprobs[0].bytes == token.bytes
    data = bytes(byte for token in choice.logprobs.content for byte in token.bytes)
    assert data.decode("utf-8", "replace") == choice.message.content
    chunks = list(chat(client, logprobs=True, top_logprobs=3, stream=True))
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert [t.logprob for t in streamed] == [t.logprob for t in choice.logprobs.content]


def test_a_stop_text_across_tokens_ends_the_reply_and_is_not_shown(client) -> None:
    whole = chat(client, max_tokens=30).choices[0].message.content
    stop = whole[8:11]  # a token of this model is a byte at most
    place = whole.index(stop)
    reply = chat(client, max_tokens=30, stop=["never occurs", stop]).choices[0]
    assert reply.message.content == whole[:place]
    assert reply.finish_reason == "stop"
    chunks = chat(client, max_tokens=30, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole[:place]


def test_a_seed_repeats_a_reply_and_n_asks_for_several(client) -> None:
    first, again = (chat(client, temperature=1.5, seed=7, n=3, max_tokens=20) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert first.usage.completion_tokens == 60
    assert first.usage.prompt_tokens == 23
    # Whatever the choices' number, the first is drawn alike.
    assert chat(client, temperature=1.5, seed=7, max_tokens=20).choices[0].message.content in texts


def test_completions_take_texts_ids_and_several_prompts(client) -> None:
    def complete(prompt, **options):
        settings = {"model": "any", "temperature": 0, "max_tokens": 6}
        return client.completions.create(prompt=prompt, **(settings | options))

    text = complete("hello").choices[0].text
    ids = client._client.post("../tokenize", json={"content": "hello", "add_special": True})
    ids = ids.json()["tokens"]
    assert complete(ids).choices[0].text == text
    both = complete(["hello", "other"]).choices
    assert both[0].text == text
    assert [choice.index for choice in both] == [0, 1]
    assert complete("hello", echo=True).choices[0].text == "hello" + text
    probs = complete("hello", logprobs=2).choices[0].logprobs
    assert len(probs.tokens) == len(probs.token_logprobs) == len(probs.text_offset) == 6
    assert probs.text_offset[0] == 0
    assert all(len(top) <= 2 for top in probs.top_logprobs)
    streamed = "".join(chunk.choices[0].text for chunk in complete("hello", stream=True))
    assert streamed == text


def test_penalties_and_biases_change_what_is_drawn(client, server: Server) -> None:
    def ids(**options):
        fields = {"prompt": "hello", "temperature": 0, "n_predict": 40} | options
        return server.ask("/completion", fields)[1]["tokens"]

    plain = ids()
    assert ids(logit_bias=[[plain[0], False]])[0] != plain[0]
    assert ids(logit_bias={str(plain[0]): -100})[0] != plain[0]
    assert ids(presence_penalty=2, frequency_penalty=2) != plain
    assert chat(client, logit_bias={"65": 100}).choices[0].message.content == 12 * "a"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0]."),
        ({"temperature": -1}, "temperature"),
        ({"temperature": math.pi * 1e9}, "temperature"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 10**9}, "n"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"stop": ["x"] * 100}, "stop"),
        ({"seed": "seven"}, "seed"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_senseless_requests_name_the_field(client, options, param) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **options)
    assert param in caught.value.body["param"]
    assert caught.value.body["message"].startswith(param.rstrip("."))


def test_a_prompt_that_does_not_fit_is_refused_and_never_trimmed(client) -> None:
    with pytest.raises(openai.BadRequestError, match="the context holds 512") as caught:
        chat(client, messages=[{"role": "user", "content": "x" * 600}])
    assert caught.value.code == "context_length_exceeded"
    long = chat(client, max_tokens=100000, messages=[{"role": "user", "content": "x" * 400}])
    assert long.usage.total_tokens == 512


def test_a_wrong_key_is_an_authentication_error(tiny) -> None:
    with running(tiny, "--api-key", "one", "--api-key", "two") as server:
        assert server.openai(api_key="two").models.list().data
        for key in ("", "tw", "twoo", "three"):
            status, body = server.ask("/v1/models", headers={"authorization": f"Bearer {key}"})
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            chat(server.openai(api_key="three"))
        assert server.ask("/health") == (200, {"status": "ok"})
        assert server.ask("/")[0] == 200
        assert server.ask("/metrics")[0] == 401
