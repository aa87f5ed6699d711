"""A Hugging Face folder → its model in torch, of which only the part at work is in memory.

The modules are built without weights, on torch's meta device and from classes of
transformers alone. `placed` gives one of them its weights from the safetensors files for
as long as it runs; what fits `keep_bytes` stays for the next time.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from csaq_export.arch import family_of
from csaq_export.arch.decoder import Slot, read_hparams, slots
from csaq_export.config import Config, read_json
from csaq_export.device import compute_dtype
from csaq_export.hf_folder import TYPES, find_tensors, model_weights
from csaq_export.safetensors_file import StoredTensor
from csaq_export.statistics.decoder import Decoder, take_apart
from csaq_export.torch_model import row_order
from csaq_export.weight import FLOAT_DTYPES, Weight
from csaq_runtime.errors import ModelError

HEAD_WEIGHT, EMBEDDING_WEIGHT = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True)
class LayeredModel:
    """`model` without weights; `slots` and `weights` by GGUF name, `stored` by Hugging Face name.

    `tied`: the output matrix is the embedding. `kept` holds what was placed before.
    """

    model: PreTrainedModel
    slots: dict[str, Slot]
    tied: bool
    weights: dict[str, Weight]
    stored: dict[str, StoredTensor]
    keep_bytes: int = 0
    kept: dict[tuple[str, torch.device], Tensor] = field(default_factory=dict)

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter behind a GGUF tensor: its shape, its values only while it is placed."""
        return self.model.get_parameter(self.slots[name].source)

    def to_gguf(self, name: str, rows: Tensor) -> Tensor:
        """Reorder something that has one entry per row."""
        order = row_order(self.slots[name])
        return rows if order is None else rows[order.to(rows.device)]

    def read(self, name: str) -> Tensor:
        """The original weights from the file in GGUF order, float32; ModelError if not finite."""
        weight = self.weights[name]
        return weight.float32(slice(0, weight.n_row)).reshape(weight.shape)

    def keeping(self, n_byte: int) -> "LayeredModel":
        """The same model with at most `n_byte` bytes of weights in memory between uses.

        What was placed before and is beyond them is let go of, the latest first.
        """
        while self.kept and sum(each.nbytes for each in self.kept.values()) > n_byte:
            self.kept.popitem()
        return replace(self, keep_bytes=min(self.keep_bytes, max(0, n_byte)))

    def decoder(self, seq_len: int, device: torch.device) -> Decoder:
        """The model's parts for windows of `seq_len` tokens."""
        return take_apart(self.model, seq_len, self.placed, compute_dtype(device))

    @contextmanager
    def placed(self, module: nn.Module, device: torch.device) -> Iterator[nn.Module]:
        """`module` with its weights on `device` inside the context, without them after it."""
        prefix = next(name for name, each in self.model.named_modules() if each is module)
        with ExitStack() as stack:
            for path, owner in module.named_modules():
                for leaf in list(owner._parameters):
                    if owner._parameters[leaf] is None:
                        continue
                    source = ".".join(part for part in (prefix, path, leaf) if part)
                    values = self._loaded(source, device)
                    stack.enter_context(swapped(owner, leaf, values))
            yield module

    @contextmanager
    def changed(self, name: str, values: Tensor, device: torch.device) -> Iterator[None]:
        """Inside the context a placed parameter has other `values`, given in GGUF order."""
        slot, order = self.slots[name], row_order(self.slots[name])
        rows = values.to(device, compute_dtype(device))
        if order is not None:
            rows = torch.empty_like(rows).index_copy_(0, order.to(device), rows)
        path, _, leaf = slot.source.rpartition(".")
        with swapped(self.model.get_submodule(path), leaf, rows):
            yield

    def _loaded(self, source: str, device: torch.device) -> Tensor:
        if (source, device) in self.kept:
            return self.kept[source, device]
        if self.tied and source == HEAD_WEIGHT:
            return self._loaded(EMBEDDING_WEIGHT, device)
        if source not in self.stored:
            raise ModelError(f"tensor {source} is missing", "config.json asks for it")
        tensor = self.stored[source]
        n_row = tensor.shape[0]
        data = torch.from_numpy(tensor.read(0, n_row)).view(FLOAT_DTYPES[TYPES[tensor.dtype]])
        values = data.reshape(tensor.shape).to(device, compute_dtype(device))
        used = sum(each.nbytes for each in self.kept.values())
        if used + values.nbytes <= self.keep_bytes:
            self.kept[source, device] = values
        return values


@contextmanager
def swapped(module: nn.Module, leaf: str, values: Tensor) -> Iterator[None]:
    """Inside the context `module.leaf` is another parameter, without gradient."""
    before = module._parameters[leaf]
    module._parameters[leaf] = nn.Parameter(values, requires_grad=False)
    try:
        yield
    finally:
        module._parameters[leaf] = before


def open_layered(folder: Path, keep_bytes: int = 0) -> LayeredModel:
    """The model in `folder`, no weight read yet.

    Raises ModelError where it is damaged or unsupported.
    """
    config = Config(read_json(folder / "config.json"), str(folder / "config.json"))
    family = family_of(config)
    h = read_hparams(config, family)
    stored = find_tensors(folder)
    weights = {weight.name: weight for weight in model_weights(family, h, stored, folder)}
    places = {slot.name: slot for slot in slots(family, h) if slot.name in weights}
    return LayeredModel(_skeleton(folder), places, h.tied, weights, stored, keep_bytes)


def _skeleton(folder: Path) -> PreTrainedModel:
    """The modules with parameters on the meta device and real buffers."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config.use_cache = False
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, dtype=torch.float32
            )
        body = model.get_decoder()
        body.rotary_emb = type(body.rotary_emb)(config=config)
    except (OSError, ValueError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(f"{folder}: transformers cannot build it: {error}") from error
    if any(buffer.is_meta for buffer in model.buffers()):
        raise ModelError(f"{folder}: {type(model).__name__} has tables that are not known here")
    assert isinstance(model, PreTrainedModel)
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return model
