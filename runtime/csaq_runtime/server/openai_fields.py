"""What OpenAI's two completion APIs have in common: options of a request, parts of a reply."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from csaq_runtime.server.fields import Fields
from csaq_runtime.server.generation import Generation
from csaq_runtime.server.model_card import ModelCard
from csaq_runtime.server.prompt import room_for_reply
from csaq_runtime.server.reply import Json
from csaq_runtime.server.sampling_fields import read_n_predict, read_sampling, read_stops

MAX_CHOICES, MAX_TOP = 16, 20
UNSUPPORTED = {
    "tools": "tools are not supported",
    "functions": "functions are not supported",
    "audio": "audio is not supported",
    "grammar": "grammars are not supported",
    "json_schema": "schemas are not supported",
    "suffix": "insertion is not supported",
}


@dataclass(frozen=True)
class Header:
    """What every chunk of a reply repeats."""

    id: str
    created: int
    model: str

    def object(self, kind: str, choices: list[Json]) -> Json:
        """An object of the API with `choices`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def new_header(prefix: str, card: ModelCard) -> Header:
    """A header with an id of its own."""
    return Header(f"{prefix}-{secrets.token_hex(12)}", int(time.time()), card.name)


def refuse_unsupported(fields: Fields) -> None:
    """Refuse what would have to change the reply and does not."""
    for name, reason in UNSUPPORTED.items():
        fields.refuse(name, reason)
    if fields.object("response_format").text("type") not in (None, "text"):
        raise fields.error("response_format", "only text is supported")
    if fields.integer("best_of", 1, 1, MAX_CHOICES) > fields.integer("n", 1, 1, MAX_CHOICES):
        raise fields.error("best_of", "is not supported, ask for n replies")


def include_usage(fields: Fields) -> bool:
    """Whether a stream shall end with the token counts."""
    return fields.object("stream_options").flag("include_usage")


def generations_of(
    fields: Fields, card: ModelCard, prompts: Sequence[Sequence[int]], n_top: int
) -> list[Generation]:
    """`n` generations per prompt; with a seed, each has one of its own, but always the same."""
    n = fields.integer("n", 1, 1, MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise fields.error("n", f"at most {MAX_CHOICES} replies per request")
    sampling, stops = read_sampling(fields, card.n_vocab), read_stops(fields)
    most = read_n_predict(fields, "max_completion_tokens", "max_tokens", "n_predict")
    ignore_eos = fields.flag("ignore_eos")
    return [
        Generation(
            ids=ids,
            sampling=replace(sampling, seed=None if sampling.seed is None else sampling.seed + k),
            n_predict=room_for_reply(ids, card.n_ctx, most),
            stops=stops,
            n_top=n_top,
            ignore_eos=ignore_eos,
        )
        for ids in prompts
        for k in range(n)
    ]
