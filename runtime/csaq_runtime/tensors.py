"""Which tensors a model consists of: checks a GGUF file's tensors against its hyper-parameters.

Names and shapes are llama.cpp's (`llama-arch.cpp`, `models/{llama,qwen2,qwen3}.cpp`). A missing,
misshapen or unknown tensor is refused by name: ignoring one would give wrong tokens.
"""

from dataclasses import dataclass

from csaq_runtime.errors import ModelError
from csaq_runtime.formats import GGMLType
from csaq_runtime.gguf import GGUFFile
from csaq_runtime.hparams import HParams
from csaq_runtime.kernels.dispatch import MATRIX_TYPES
from csaq_runtime.rows.names import base_architecture, is_rows
from csaq_runtime.rows.weight import RowsWeight, names_of, read_weights

VECTOR_TYPES = frozenset({GGMLType.F32, GGMLType.F16, GGMLType.BF16})


@dataclass(frozen=True)
class TensorRule:
    """What is known of a tensor before the file is read; vectors have one dimension."""

    shape: tuple[int, ...]
    required: bool

    @property
    def types(self) -> frozenset[GGMLType]:
        """Types it may have."""
        return MATRIX_TYPES if len(self.shape) == 2 else VECTOR_TYPES


def linear_shapes(hparams: HParams) -> dict[str, tuple[int, int]]:
    """Part of a tensor's name → (n_row, n_col), for the linear layers inside a layer."""
    n_embd, n_ff = hparams.n_embd, hparams.n_ff
    n_q, n_kv = hparams.n_head * hparams.head_dim, hparams.n_head_kv * hparams.head_dim
    return {
        "attn_q": (n_q, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_q),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }


def _linear_rules(name: str, shape: tuple[int, int], required: bool) -> dict[str, TensorRule]:
    return {
        f"{name}.weight": TensorRule(shape, required),
        f"{name}.bias": TensorRule((shape[0],), False),
        f"{name}.scale": TensorRule((1,), False),
    }


def layer_rules(hparams: HParams, index: int, fused: bool) -> dict[str, TensorRule]:
    """Rules for the tensors of one layer; `fused`: queries, keys and values are one of them."""
    rules = {
        f"blk.{index}.attn_norm.weight": TensorRule((hparams.n_embd,), True),
        f"blk.{index}.ffn_norm.weight": TensorRule((hparams.n_embd,), True),
    }
    shapes = linear_shapes(hparams)
    if fused:
        n_row = sum(shapes.pop(part)[0] for part in ("attn_q", "attn_k", "attn_v"))
        shapes["attn_qkv"] = (n_row, hparams.n_embd)
    for part, shape in shapes.items():
        rules |= _linear_rules(f"blk.{index}.{part}", shape, True)
    if hparams.has_head_norms:
        for name in ("attn_q_norm", "attn_k_norm"):
            rules[f"blk.{index}.{name}.weight"] = TensorRule((hparams.head_dim,), True)
    return rules


def is_fused(file: GGUFFile, index: int) -> bool:
    """Whether a layer's queries, keys and values are one tensor."""
    return f"blk.{index}.attn_qkv.weight" in file.tensors


def tensor_rules(file: GGUFFile, hparams: HParams) -> dict[str, TensorRule]:
    """Rules for every tensor that `file` must or may hold."""
    vocabulary_shape = (hparams.n_vocab, hparams.n_embd)
    rules = {
        "token_embd.weight": TensorRule(vocabulary_shape, True),
        "output_norm.weight": TensorRule((hparams.n_embd,), True),
        "rope_freqs.weight": TensorRule((hparams.head_dim // 2,), False),
    }
    rules |= _linear_rules("output", vocabulary_shape, False)
    for index in range(hparams.n_layer):
        rules |= layer_rules(hparams, index, is_fused(file, index))
    return rules


def check_tensors(file: GGUFFile, hparams: HParams) -> dict[str, RowsWeight]:
    """Refuse a file whose tensors are not exactly what its architecture computes with.

    Returns the matrices of a rows file by name without `.weight`; a stock file has none.
    """
    rules = tensor_rules(file, hparams)
    weights: dict[str, RowsWeight] = {}
    if is_rows(file.text("general.architecture")):
        weights = _rows_weights(file, rules)
        rules = {name: rule for name, rule in rules.items() if len(rule.shape) == 1}
    check_names(file, rules, set().union(*map(names_of, weights.values())))
    return weights


def _rows_weights(file: GGUFFile, rules: dict[str, TensorRule]) -> dict[str, RowsWeight]:
    shapes, optional = {}, set()
    for name, rule in rules.items():
        if len(rule.shape) == 2:
            base = name.removesuffix(".weight")
            shapes[base] = (rule.shape[0], rule.shape[1])
            if not rule.required:
                optional.add(base)
    return read_weights(file, shapes, frozenset(optional))


def check_names(file: GGUFFile, rules: dict[str, TensorRule], known: set[str]) -> None:
    """Refuse a file that lacks a tensor, or has one that is not as `rules` say or `known`."""
    for name, rule in rules.items():
        if name in file.tensors:
            _check_tensor(file, name, rule)
        elif rule.required:
            raise ModelError(f"{file.path}: tensor {name} is missing")
    for name in file.tensors:
        if name not in rules and name not in known:
            raise ModelError(
                f"{file.path}: tensor {name!r} does not belong to architecture"
                f" {base_architecture(file.text('general.architecture'))}"
            )


def _check_tensor(file: GGUFFile, name: str, rule: TensorRule) -> None:
    info = file.tensors[name]
    if info.shape != rule.shape:
        raise ModelError(f"{file.path}: tensor {name}: shape {info.shape}, expected {rule.shape}")
    if info.type not in rule.types:
        raise ModelError(f"{file.path}: tensor {name}: type {info.type.name} is not supported here")
