"""Text the user supplies → token windows: plain text, JSON lines (chat or plain) or a dataset.

The windows are drawn with a seed, so the same inputs give the same calibration.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from csaq_runtime.errors import UsageError

# A text, or a chat as a list of messages.
Document = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Calibration:
    """`tokens`: int64 [n_sample, seq_len]; `dataset` names the source, `sha256` its tokens."""

    tokens: Tensor
    dataset: str
    sha256: str
    seed: int

    @property
    def fingerprint(self) -> dict[str, str]:
        """What distinguishes statistics made from this calibration."""
        return {"calibration": self.sha256, "shape": str(tuple(self.tokens.shape))}

    def first(self, n: int) -> "Calibration":
        """The first `n` windows."""
        return replace(self, tokens=self.tokens[:n])

    def split(self, n: int) -> "tuple[Calibration, Calibration]":
        """The first windows, and the last `n` apart."""
        return tuple(
            Calibration(part.contiguous(), self.dataset, self.sha256, self.seed)
            for part in (self.tokens[:-n], self.tokens[-n:])
        )  # type: ignore[return-value]


def read_calibration(
    source: str, tokenizer: PreTrainedTokenizerBase, n_sample: int, seq_len: int, seed: int
) -> Calibration:
    """Draw up to `n_sample` disjoint windows of `seq_len` tokens from `source`.

    `source` is a text file, a .jsonl file or `dataset[:config[:split]]`: a name of the hub
    or a folder that the `datasets` library reads.
    Raises UsageError if it cannot be read or is shorter than one window.
    """
    path = Path(source)
    documents = _file_documents(path) if path.is_file() else _dataset_documents(source)
    return draw_calibration(documents, path.name, tokenizer, n_sample, seq_len, seed)


def draw_calibration(
    documents: Iterator[Document],
    dataset: str,
    tokenizer: PreTrainedTokenizerBase,
    n_sample: int,
    seq_len: int,
    seed: int,
) -> Calibration:
    """As `read_calibration`, from `documents` (texts or chats), which are called `dataset`."""
    stream = _token_stream(documents, tokenizer, n_sample * seq_len)
    n_window = len(stream) // seq_len
    if n_window == 0:
        raise UsageError(f"{dataset}: only {len(stream)} tokens, one window needs {seq_len}")
    windows = torch.tensor(stream[: n_window * seq_len]).view(n_window, seq_len)
    order = torch.randperm(n_window, generator=torch.Generator().manual_seed(seed))
    tokens = windows[order[:n_sample]]
    if tokenizer.bos_token_id is not None:
        # Models attend to whatever comes first; in use that is the beginning-of-text token.
        tokens[:, 0] = tokenizer.bos_token_id
    return calibration_of(tokens, dataset, seed)


def calibration_of(tokens: Tensor, dataset: str, seed: int) -> Calibration:
    """The Calibration of windows that are there already, int64 [n_sample, seq_len]."""
    digest = hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()
    return Calibration(tokens, dataset, digest, seed)


# A pool a few times larger than needed keeps the draw spread over the text.
_POOL = 8


def _token_stream(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerBase,
    n_token: int,
) -> list[int]:
    separator = tokenizer.bos_token_id
    if separator is None:
        separator = tokenizer.eos_token_id
    stream: list[int] = []
    for document in documents:
        if separator is not None:
            stream.append(separator)
        stream += _document_tokens(document, tokenizer)
        if len(stream) >= _POOL * n_token:
            break
    return stream


def _document_tokens(
    document: str | list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    if isinstance(document, list):
        document = _chat_text(document, tokenizer)
    return list(tokenizer(document, add_special_tokens=False)["input_ids"])


def _chat_text(messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (ValueError, TypeError, KeyError, TemplateError) as error:
        raise UsageError(
            f"a chat of the calibration text does not fit the model's template: {error}",
            "use plain text for models that do not chat",
        ) from error


# Cut points for long texts: tokenizing a whole book at once needs many times its size.
_PIECE_CHARS = 1 << 16


def _file_documents(path: Path) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _json_document(line, f"{path}: line {number}")
        return
    for start in range(0, len(text), _PIECE_CHARS):
        yield text[start : start + _PIECE_CHARS]


def _json_document(line: str, where: str) -> str | list[dict[str, Any]]:
    """A chat if the object has `messages`, else `text`, else all its strings."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{where}: not a JSON object")
    return _record_document(record, where)


def _record_document(record: dict[str, Any], where: str) -> str | list[dict[str, Any]]:
    messages = record.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        return messages
    texts = [record["text"]] if "text" in record else list(record.values())
    strings = [text for text in texts if isinstance(text, str)]
    if not strings:
        raise UsageError(f"{where}: neither messages nor text")
    return "\n".join(strings)


def _dataset_documents(source: str) -> Iterator[Document]:
    """Records of a dataset `name[:config[:split]]`, streamed; the split defaults to train."""
    name, config, split = (*source.split(":"), "", "")[:3]
    if "/" not in name and not Path(name).is_dir():
        raise UsageError(f"{source}: no such file", "give a text or .jsonl file")
    for number, record in enumerate(_records(source, name, config, split), 1):
        yield _record_document(record, f"{source}: record {number}")


def _records(source: str, name: str, config: str, split: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    try:
        yield from load_dataset(name, config or None, split=split or "train", streaming=True)
    except Exception as error:
        # `datasets` lets through whatever its many readers and the network raise.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{source}: cannot be loaded: {reason}") from error
