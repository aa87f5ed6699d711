"""`/v1/chat/completions`: messages → a generation; its pieces → OpenAI's chat objects."""

from collections.abc import Sequence
from dataclasses import dataclass

from csaq_runtime.server.fields import Fields
from csaq_runtime.server.generation import Piece, TokenLogprob
from csaq_runtime.server.model_card import ModelCard
from csaq_runtime.server.openai_fields import (
    MAX_TOP,
    Header,
    generations_of,
    include_usage,
    new_header,
    refuse_unsupported,
)
from csaq_runtime.server.prompt import chat_prompt
from csaq_runtime.server.reply import DONE, Asked, Choice, Json, usage
from csaq_runtime.tokenizer import Vocabulary


def read_chat(fields: Fields, card: ModelCard) -> Asked:
    """What a request to the chat API asks for; RequestError names the field that is wrong."""
    refuse_unsupported(fields)
    n_top = fields.integer("top_logprobs", 0, 0, MAX_TOP)
    n_top = n_top if fields.flag("logprobs") else -1
    prompt = chat_prompt(fields, card.vocabulary)
    generations = generations_of(fields, card, [prompt], n_top)
    header = new_header("chatcmpl", card)
    form = ChatFormat(header, len(generations), include_usage(fields), card.vocabulary)
    return Asked(generations, fields.flag("stream"), form)


@dataclass(frozen=True)
class ChatFormat:
    """OpenAI's `chat.completion` and `chat.completion.chunk` objects."""

    header: Header
    n: int
    with_usage: bool
    vocabulary: Vocabulary

    def opening(self) -> list[Json]:
        """The role, for every choice."""
        delta = {"role": "assistant", "content": ""}
        return [self._chunk(index, delta, None, None) for index in range(self.n)]

    def event(self, index: int, piece: Piece) -> Json:
        """A chunk with the new text."""
        delta = {"content": piece.text} if piece.text or not piece.summary else {}
        finish = piece.summary.finish if piece.summary else None
        return self._chunk(index, delta, self._logprobs(piece.logprobs), finish)

    def closing(self, choices: Sequence[Choice]) -> list[Json | str]:
        """Token counts if they were asked for, and the end."""
        if not self.with_usage:
            return [DONE]
        counts = {"usage": usage(choices, self.n)}
        return [self.header.object("chat.completion.chunk", []) | counts, DONE]

    def whole(self, choices: Sequence[Choice]) -> Json:
        """A `chat.completion`."""
        body = [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice.logprobs),
                "finish_reason": choice.finished.finish,
            }
            for index, choice in enumerate(choices)
        ]
        counts = {"usage": usage(choices, self.n)}
        return self.header.object("chat.completion", body) | counts

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, finish: str | None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self.header.object("chat.completion.chunk", [choice])

    def _logprobs(self, items: Sequence[TokenLogprob]) -> Json | None:
        if not items:
            return None
        return {"content": [self._token(item) for item in items], "refusal": None}

    def _token(self, item: TokenLogprob) -> Json:
        top = [self._entry(token, logprob) for token, logprob in item.top]
        return self._entry(item.token_id, item.logprob) | {"top_logprobs": top}

    def _entry(self, token: int, logprob: float) -> Json:
        text = list(self.vocabulary.token_bytes(token))
        return {"token": self.vocabulary.piece(token), "logprob": logprob, "bytes": text}
