"""Fields that say how tokens are drawn, by the names of OpenAI's and llama.cpp's APIs."""

from typing import Any

from csaq_runtime.sample import Sampling
from csaq_runtime.server.fields import Fields

MAX_STOPS, MAX_STOP_LENGTH, MAX_BIASES = 16, 256, 1024
DEFAULT = Sampling()
MAX_SEED = 2**64 - 1


def read_sampling(fields: Fields, n_vocab: int) -> Sampling:
    """The sampling a request asks for; what it leaves out is llama.cpp's default."""
    repeat_last_n = fields.integer("repeat_last_n", DEFAULT.repeat_last_n, -1, 2**31)
    seed = fields.integer("seed", -1, -(2**63), MAX_SEED)
    return Sampling(
        temperature=fields.number("temperature", DEFAULT.temperature, 0, 100),
        top_k=max(fields.integer("top_k", DEFAULT.top_k, -1, 2**31), 0),
        top_p=fields.number("top_p", DEFAULT.top_p, 0, 1),
        min_p=fields.number("min_p", DEFAULT.min_p, 0, 1),
        repeat_penalty=fields.number("repeat_penalty", DEFAULT.repeat_penalty, 0.01, 100),
        repeat_last_n=repeat_last_n,
        presence_penalty=fields.number("presence_penalty", 0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0, -2, 2),
        logit_bias=read_logit_bias(fields, n_vocab),
        seed=None if seed < 0 else seed,
    )


def read_logit_bias(fields: Fields, n_vocab: int) -> tuple[tuple[int, float], ...]:
    """`logit_bias`: an object of id → bias, or llama.cpp's list of [id, bias]."""
    value = fields.any("logit_bias")
    if isinstance(value, list):
        pairs = [tuple(item) if isinstance(item, list) else (item,) for item in value]
    else:
        pairs = list(fields.object("logit_bias").values.items())
    if len(pairs) > MAX_BIASES:
        raise fields.error("logit_bias", f"at most {MAX_BIASES} tokens")
    return tuple(_bias(pair, fields, n_vocab) for pair in pairs)


def _bias(pair: tuple[Any, ...], fields: Fields, n_vocab: int) -> tuple[int, float]:
    if len(pair) == 2:
        key, value = pair
        token = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 10 else key
        value = -100 if value is False else value
        is_valid = _is_number(token, int) and _is_number(value, int | float)
        if is_valid and 0 <= token < n_vocab and -100 <= value <= 100:
            return token, float(value)
    raise fields.error("logit_bias", f"token ids 0 … {n_vocab - 1} and biases -100 … 100")


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def read_stops(fields: Fields) -> tuple[str, ...]:
    """Texts that end a reply."""
    return fields.texts("stop", MAX_STOPS, MAX_STOP_LENGTH)


def read_n_predict(fields: Fields, *names: str) -> int:
    """Most tokens to generate: the first of `names` that is given; -1 = as many as fit."""
    for name in names:
        if fields.any(name) is not None:
            return fields.integer(name, -1, -1, 2**31)
    return -1
