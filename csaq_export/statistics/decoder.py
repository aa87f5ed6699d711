"""A Hugging Face causal LM taken apart: embedding, decoder layers, head.

Layers are called one by one with the arguments the model itself would give them, so
that only one needs to be on the device.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from csaq_runtime.errors import ModelError


@dataclass(frozen=True)
class Decoder:
    """The parts of a model; `arguments[i]` are layer i's keyword arguments for any batch."""

    embedding: nn.Embedding
    layers: tuple[nn.Module, ...]
    norm: nn.Module
    head: nn.Linear
    arguments: tuple[dict[str, Any], ...]

    def run_layer(self, index: int, hidden: Tensor) -> Tensor:
        """Output of layer `index` for `hidden` [n, seq_len, n_embd], on the layer's device."""
        arguments = {key: _to(value, hidden.device) for key, value in self.arguments[index].items()}
        output = self.layers[index](hidden, **arguments)
        found = output[0] if isinstance(output, tuple) else output
        assert isinstance(found, Tensor)
        return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, seq_len, n_vocab] of the last layer's output."""
        logits = self.head(self.norm(hidden))
        assert isinstance(logits, Tensor)
        return logits


def take_apart(model: PreTrainedModel, seq_len: int) -> Decoder:
    """The Decoder of `model` for windows of `seq_len` tokens.

    One window runs through the model to record the arguments of its layers; they hold
    for every unpadded batch. Raises ModelError for models of another build.
    """
    body = model.get_decoder()  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not isinstance(head, nn.Linear):
        raise ModelError(f"{type(model).__name__}: not a plain stack of decoder layers")
    arguments: list[dict[str, Any]] = []
    hooks = [layer.register_forward_pre_hook(_recorder(arguments), with_kwargs=True)
             for layer in layers]  # fmt: skip
    with torch.no_grad():
        body(torch.zeros(1, seq_len, dtype=torch.long), use_cache=False)
    for hook in hooks:
        hook.remove()
    return Decoder(body.get_input_embeddings(), tuple(layers), body.norm, head, tuple(arguments))


def _recorder(arguments: list[dict[str, Any]]) -> Any:
    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        skipped = ("past_key_values", "past_key_value", "hidden_states")
        arguments.append({key: value for key, value in kwargs.items() if key not in skipped})

    return record


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, tuple):
        return tuple(_to(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """`module` on `device` inside the context, and back where it was after it."""
    home = next(module.parameters()).device
    try:
        yield module.to(device)
    finally:
        module.to(home)
