"""Texts → the token windows that CSAQ is calibrated on, as a list of model inputs."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from csaq_export.calibration import Calibration, calibration_of, draw_calibration, read_calibration
from csaq_runtime.errors import UsageError

# Where no texts are given; fetched from the hub.
WIKITEXT = "Salesforce/wikitext:wikitext-2-raw-v1:train"
OWN_TEXTS = "custom_texts"
# One window: `input_ids` and `attention_mask`, int64 [1, seq_len].
Window = Mapping[str, Tensor]


def build_calibration_data(
    tokenizer: PreTrainedTokenizerBase,
    custom_texts: Sequence[str] | None = None,
    n: int = 64,
    seq_len: int = 128,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> list[dict[str, Tensor]]:
    """Up to `n` windows of `seq_len` tokens, drawn with `seed`, without padding.

    `custom_texts` are joined with the tokenizer's separator and cut, so that short texts fill
    windows too; without them the text is WikiText-2 from the hub. Each window has `input_ids` and
    `attention_mask`, int64 [1, seq_len]. Raises UsageError if there are too few tokens or the data
    set cannot be read.
    """
    if n < 1 or seq_len < 2:
        raise UsageError(f"{n} windows of {seq_len} tokens: nothing to calibrate on")
    if custom_texts is None:
        drawn = read_calibration(WIKITEXT, tokenizer, n, seq_len, seed)
    else:
        texts = _documents(custom_texts)
        drawn = draw_calibration(texts, OWN_TEXTS, tokenizer, n, seq_len, seed)
    windows = drawn.tokens.to(device).split(1)  # type: ignore[no-untyped-call]
    return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in windows]


def _documents(texts: Sequence[str]) -> Iterator[str]:
    if isinstance(texts, str):
        raise UsageError("custom_texts is one text", "give a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"custom_texts: {text!r} is not a text")
        yield text


def as_calibration(
    data: Sequence[Window] | Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None,
    seq_len: int,
) -> Calibration:
    """What `quantize` was given, as windows int64 [n, seq_len]: model inputs or texts.

    Texts need the `tokenizer` and are cut to `seq_len`. Raises UsageError for windows of different
    lengths or with padding, which would be calibrated on too.
    """
    if not data:
        raise UsageError("no calibration data", "build_calibration_data(tokenizer, texts)")
    if isinstance(data[0], str):
        if tokenizer is None:
            raise UsageError("texts as calibration data need tokenizer=…")
        data = build_calibration_data(tokenizer, data, len(data), seq_len)  # type: ignore[arg-type]
    windows = [_window(each) for each in data]  # type: ignore[arg-type]
    if len({window.shape[1] for window in windows}) > 1:
        raise UsageError("the calibration windows differ in length")
    return calibration_of(torch.cat(windows).cpu().long(), OWN_TEXTS, 0)


def _window(inputs: Window) -> Tensor:
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        raise UsageError("a calibration window has no input_ids")
    mask = inputs.get("attention_mask")
    if mask is not None and not bool(mask.bool().all()):
        raise UsageError(
            "a calibration window is padded", "build_calibration_data fills windows with text"
        )
    ids = inputs["input_ids"]
    return ids if ids.dim() == 2 else ids[None]
