"""Train the demo model's tokenizer: TinyStories text → byte-level BPE, 4,096 tokens.

The pre-tokenizer is Qwen2's, so llama.cpp knows it by the name ``qwen2``; the
result is a `transformers.PreTrainedTokenizerFast` that `demo/train.py` stores
beside the weights.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_STORY = "<|endoftext|>"
N_VOCAB = 4096

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The model continues stories, so a chat is one growing story without role markers.
STORY_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if not loop.last %}{{ ' ' }}{% endif %}{% endfor %}"
)


def train_vocabulary(stories: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from `stories`; `<|endoftext|>` (id 0) begins and ends each story."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[END_OF_STORY],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_STORY, eos_token=END_OF_STORY
    )
    wrapped.chat_template = STORY_TEMPLATE
    return wrapped
