"""GGUF metadata → a vocabulary that turns text into token ids and back.

Data flow: token_table (lists, checked) → special_tokens (which ids mean what)
→ partition (cut text at special tokens) → byte_bpe or sentencepiece (text to
ids) → detokenizer (ids to text), all held together by vocabulary.
"""

from csaq_runtime.tokenizer.detokenizer import Detokenizer
from csaq_runtime.tokenizer.vocabulary import Vocabulary, load_vocabulary

__all__ = ["Detokenizer", "Vocabulary", "load_vocabulary"]
