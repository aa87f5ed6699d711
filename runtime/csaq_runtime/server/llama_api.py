"""llama.cpp's own `/completion`, `/tokenize`, `/detokenize` and `/props`, as its clients use them.

Field names are those of llama.cpp's tools/server/README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csaq_runtime.server.fields import Fields
from csaq_runtime.server.generation import Piece, Summary, TokenLogprob
from csaq_runtime.server.model_card import ModelCard
from csaq_runtime.server.openai_fields import MAX_TOP, generations_of
from csaq_runtime.server.prompt import text_prompts, token_ids
from csaq_runtime.server.reply import Asked, Choice, Json
from csaq_runtime.tokenizer import Vocabulary


def read_completion(fields: Fields, card: ModelCard) -> Asked:
    """What a request to `/completion` asks for."""
    for name in ("grammar", "json_schema"):
        fields.refuse(name, "is not supported")
    (ids,) = text_prompts(fields, card.vocabulary, 1)
    token_ids(Fields({"prompt": ids}), "prompt", card.n_vocab)
    n_top = fields.integer("n_probs", 0, 0, MAX_TOP) or -1
    generations = generations_of(fields, card, [ids], n_top)[:1]
    prompt = card.vocabulary.decode(ids, keep_special=True)
    return Asked(generations, fields.flag("stream"), LlamaFormat(card, prompt))


@dataclass(frozen=True)
class LlamaFormat:
    """llama.cpp's flat objects: `content`, and figures once `stop` is true."""

    card: ModelCard
    prompt: str

    def opening(self) -> list[Json]:
        """Nothing."""
        return []

    def event(self, index: int, piece: Piece) -> Json:
        """The new text; with the last, the figures."""
        body = self._content(index, piece.text, piece.token_ids, piece.logprobs)
        if piece.summary is None:
            return body | {"stop": False}
        return body | self._end(piece.summary)

    def closing(self, choices: Sequence[Choice]) -> list[Json | str]:
        """Nothing: the last piece says that it is."""
        return []

    def whole(self, choices: Sequence[Choice]) -> Json:
        """Text and figures."""
        (choice,) = choices
        body = self._content(0, choice.text, choice.token_ids, choice.logprobs)
        return body | self._end(choice.finished)

    def _content(
        self, index: int, text: str, ids: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> Json:
        body: Json = {"index": index, "content": text, "tokens": list(ids)}
        if logprobs:
            body["completion_probabilities"] = [_token(self.card.vocabulary, it) for it in logprobs]
        return body

    def _end(self, summary: Summary) -> Json:
        by_word = summary.stop_text is not None
        kind = "limit" if summary.finish == "length" else "word" if by_word else "eos"
        return {
            "stop": True,
            "model": self.card.name,
            "prompt": self.prompt,
            "stop_type": kind,
            "stopping_word": summary.stop_text or "",
            "tokens_predicted": summary.n_generated,
            "tokens_evaluated": summary.n_prompt,
            "tokens_cached": summary.n_prompt + summary.n_generated,
            "truncated": False,
            "has_new_line": False,
            "timings": _timings(summary),
        }


def _token(vocabulary: Vocabulary, item: TokenLogprob) -> Json:
    def entry(token: int, logprob: float) -> Json:
        text = vocabulary.token_bytes(token)
        return {
            "id": token,
            "token": text.decode("utf-8", "replace"),
            "bytes": list(text),
            "logprob": logprob,
        }

    return entry(item.token_id, item.logprob) | {
        "top_logprobs": [entry(token, logprob) for token, logprob in item.top]
    }


def _timings(summary: Summary) -> Json:
    n_read = summary.n_prompt - summary.n_cached
    n_later = max(summary.n_generated - 1, 0)
    return {
        "cache_n": summary.n_cached,
        "prompt_n": n_read,
        "prompt_ms": 1000 * summary.prompt_seconds,
        "prompt_per_second": _rate(n_read, summary.prompt_seconds),
        "predicted_n": summary.n_generated,
        "predicted_ms": 1000 * summary.generated_seconds,
        "predicted_per_second": _rate(n_later, summary.generated_seconds),
    }


def _rate(n: int, seconds: float) -> float:
    return n / seconds if seconds > 0 else 0.0


def tokenize(fields: Fields, card: ModelCard) -> Json:
    """`content` → `tokens`: ids, or ids and texts with `with_pieces`."""
    text = fields.text("content") or ""
    add, parse = fields.flag("add_special"), fields.flag("parse_special", True)
    ids = card.vocabulary.encode(text, add, parse)
    if not fields.flag("with_pieces"):
        return {"tokens": ids}
    return {"tokens": [{"id": id, "piece": _piece(card.vocabulary.token_bytes(id))} for id in ids]}


def _piece(data: bytes) -> str | list[int]:
    """Text, or the bytes of a token that holds part of a character only."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return list(data)


def detokenize(fields: Fields, card: ModelCard) -> Json:
    """`tokens` → `content`."""
    ids = token_ids(fields, "tokens", card.vocabulary.n_vocab)
    return {"content": card.vocabulary.decode(ids, keep_special=True)}


def props(card: ModelCard) -> dict[str, Any]:
    """What a client may want to know before it asks."""
    vocabulary = card.vocabulary
    bos, eos = vocabulary.bos_id, vocabulary.eos_id
    return {
        "default_generation_settings": {"n_ctx": card.n_ctx},
        "total_slots": card.n_slot,
        "model_alias": card.name,
        "model_path": card.path,
        "chat_template": vocabulary.chat_template or "",
        "bos_token": "" if bos is None else vocabulary.piece(bos),
        "eos_token": "" if eos is None else vocabulary.piece(eos),
        "modalities": {"vision": False, "audio": False},
    }
