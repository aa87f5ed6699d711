"""`/v1/completions`: texts or ids → generations; their pieces → OpenAI's completion objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from csaq_runtime.server.fields import Fields
from csaq_runtime.server.generation import Piece, TokenLogprob
from csaq_runtime.server.model_card import ModelCard
from csaq_runtime.server.openai_fields import (
    MAX_CHOICES,
    MAX_TOP,
    Header,
    generations_of,
    include_usage,
    new_header,
    refuse_unsupported,
)
from csaq_runtime.server.prompt import text_prompts, token_ids
from csaq_runtime.server.reply import DONE, Asked, Choice, Json, usage
from csaq_runtime.tokenizer import Vocabulary


def read_text(fields: Fields, card: ModelCard) -> Asked:
    """What a request to the completion API asks for; RequestError names the field."""
    refuse_unsupported(fields)
    n_top = -1 if fields.any("logprobs") in (None, False) else _n_top(fields)
    prompts = text_prompts(fields, card.vocabulary, MAX_CHOICES)
    for ids in prompts:
        token_ids(Fields({"prompt": ids}), "prompt", card.n_vocab)
    generations = generations_of(fields, card, prompts, n_top)
    echo = fields.flag("echo")
    if echo and n_top >= 0:
        raise fields.error("echo", "is not supported together with logprobs")
    prefixes = [card.vocabulary.decode(item.ids) if echo else "" for item in generations]
    n = len(generations) // len(prompts)
    form = TextFormat(new_header("cmpl", card), n, include_usage(fields), card.vocabulary, prefixes)
    return Asked(generations, fields.flag("stream"), form)


def _n_top(fields: Fields) -> int:
    return 0 if fields.any("logprobs") is True else fields.integer("logprobs", 0, 0, MAX_TOP)


@dataclass(frozen=True)
class TextFormat:
    """OpenAI's `text_completion` objects; `prefixes` are the prompts to echo, by choice."""

    header: Header
    n: int
    with_usage: bool
    vocabulary: Vocabulary
    prefixes: Sequence[str]
    _n_shown: dict[int, int] = field(default_factory=dict)

    def opening(self) -> list[Json]:
        """The prompts, where they shall be echoed."""
        return [
            self._object([self._choice(index, prefix, None, None)])
            for index, prefix in enumerate(self.prefixes)
            if prefix
        ]

    def event(self, index: int, piece: Piece) -> Json:
        """An object with the new text."""
        finish = piece.summary.finish if piece.summary else None
        logprobs = self._logprobs(piece.logprobs, self._n_shown.get(index, 0))
        self._n_shown[index] = self._n_shown.get(index, 0) + len(piece.text)
        return self._object([self._choice(index, piece.text, logprobs, finish)])

    def closing(self, choices: Sequence[Choice]) -> list[Json | str]:
        """Token counts if they were asked for, and the end."""
        if not self.with_usage:
            return [DONE]
        return [self._object([]) | {"usage": usage(choices, self.n)}, DONE]

    def whole(self, choices: Sequence[Choice]) -> Json:
        """All choices in one object."""
        body = [
            self._choice(
                index,
                self.prefixes[index] + choice.text,
                self._logprobs(choice.logprobs, 0),
                choice.finished.finish,
            )
            for index, choice in enumerate(choices)
        ]
        return self._object(body) | {"usage": usage(choices, self.n)}

    def _object(self, choices: list[Json]) -> Json:
        return self.header.object("text_completion", choices)

    def _choice(self, index: int, text: str, logprobs: Json | None, finish: str | None) -> Json:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, items: Sequence[TokenLogprob], offset: int) -> Json | None:
        """Four lists of equal length; `offset` is where the first token begins in the text."""
        if not items:
            return None
        texts = [self.vocabulary.piece(item.token_id) for item in items]
        return {
            "tokens": texts,
            "token_logprobs": [item.logprob for item in items],
            "top_logprobs": [
                {self.vocabulary.piece(token): logprob for token, logprob in item.top}
                for item in items
            ],
            "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)),
        }
