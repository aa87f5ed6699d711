"""Tiny Hugging Face models and tokenizers with random weights, made on the spot."""

import json
from pathlib import Path
from typing import Any

import torch
from sentencepiece import SentencePieceTrainer
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

TEXT = [
    "Once upon a time there was a little girl. She had 12 red balloons!",
    "The dog said: 'I don't know what you mean, Lily.' It was sunny.",
    "One day, they went to the park; the cat ran away (very fast).",
] * 20
PROBE = "Once upon a time, the dog's 345 balloons\n\n  flew away -- héllo 世界 🙂!"
END = "<|endoftext|>"
# What llama.cpp's src/llama-vocab.cpp quotes from the published tokenizer.json files.
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
SPLITS = {
    "qwen2": [rf"{_START}|\p{{N}}|{_TAIL}"],
    "llama-bpe": [rf"{_START}|\p{{N}}{{1,3}}|{_TAIL}"],
    "tekken": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
        r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"],
}
N_VOCAB = 320

_SHAPE: dict[str, Any] = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**_SHAPE),
    "llama3-tied": lambda: LlamaConfig(
        **_SHAPE, tie_word_embeddings=True, rope_parameters=dict(_LLAMA3)
    ),
    "llama-biased": lambda: LlamaConfig(**_SHAPE, attention_bias=True, mlp_bias=True),
    "llama-wide-heads": lambda: LlamaConfig(**_SHAPE, head_dim=32),
    "llama-linear": lambda: LlamaConfig(**_SHAPE, rope_parameters=dict(_LINEAR)),
    "llama-yarn": lambda: LlamaConfig(**_SHAPE, rope_parameters=dict(_YARN)),
    "mistral": lambda: MistralConfig(**_SHAPE, sliding_window=64),
    "qwen2": lambda: Qwen2Config(**_SHAPE, rope_theta=1e6),
    "qwen2-tied": lambda: Qwen2Config(**_SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=32),
    "qwen3-tied": lambda: Qwen3Config(**_SHAPE, head_dim=16, tie_word_embeddings=True),
}


def build_model(kind: str, seed: int = 0, **changes: Any) -> Any:
    """A random model whose norms and biases differ from 1 and 0 too."""
    torch.manual_seed(seed)
    config = CONFIGS[kind]()
    for key, value in changes.items():
        setattr(config, key, value)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model


def save_folder(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Write `kind` with a byte-level tokenizer into `folder`; returns the model."""
    model = build_model(kind, **changes).to(dtype)
    model.save_pretrained(folder)
    byte_level_tokenizer("qwen2" if kind.startswith("qwen") else "llama-bpe").save_pretrained(
        folder
    )
    return model


def byte_level_tokenizer(pre: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 300 tokens with the splitting rules llama.cpp calls `pre`."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    steps: list[Any] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS.get(pre, [])
    ]
    if pre in ("smollm", "deepseek-coder"):
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens(["<tool>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)
    wrapped.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return wrapped


def write_sentencepiece(folder: Path, n_vocab: int = N_VOCAB) -> None:
    """Train tokenizer.model (BPE with byte fallback, as Llama 2's) and its configuration."""
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=n_vocab - 2,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(n_vocab - 2): {"content": "<|user|>", "special": True},
            str(n_vocab - 1): {"content": "▁word", "special": False},
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def llama_bpe_tokenizer() -> Tokenizer:
    """Llama 2's kind of tokenizer.json: merges over characters, unknown ones as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = document["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(document))
