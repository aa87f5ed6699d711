"""Tokenizer files become the right tokens, types, scores and special ids, or are refused."""

import json

import pytest

from csaq_export.config import Config
from csaq_export.vocabulary import vocabulary_metadata
from csaq_export.vocabulary.pre_tokenizer import pre_tokenizer_name
from csaq_export.vocabulary.tokens import TokenType
from csaq_runtime.errors import TokenizerError
from tests.export.models import (
    SPLITS,
    byte_level_tokenizer,
    llama_bpe_tokenizer,
    write_sentencepiece,
)

CONFIG = Config({"bos_token_id": 1, "eos_token_id": [1, 2]}, "config.json")


def change(path, edit):
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def values(folder, n_vocab, config=CONFIG):
    metadata = vocabulary_metadata(folder, config, n_vocab)
    return {key.removeprefix("tokenizer."): field.value for key, field in metadata.items()}


@pytest.fixture
def byte_level(tmp_path):
    byte_level_tokenizer("qwen2").save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def llama_bpe(tmp_path):
    llama_bpe_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("pre", [*SPLITS, "gpt-2", "smollm"])
def test_pre_tokenizers_are_recognised_by_their_rules(tmp_path, pre):
    byte_level_tokenizer(pre).save_pretrained(tmp_path)
    assert values(tmp_path, 320)["ggml.pre"] == pre


def test_llama3_rules_with_merges_inside_words_are_another_name():
    document = json.loads(byte_level_tokenizer("llama-bpe").backend_tokenizer.to_str())
    assert pre_tokenizer_name(Config(document, "x")) == "llama-bpe"
    document["model"]["ignore_merges"] = False
    assert pre_tokenizer_name(Config(document, "x")) == "smaug-bpe"


def test_unknown_rules_are_refused_and_shown():
    document = json.loads(byte_level_tokenizer("qwen2").backend_tokenizer.to_str())
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    with pytest.raises(TokenizerError, match=r"no name for this pre-tokenizer.*w\+"):
        pre_tokenizer_name(Config(document, "x"))


def test_byte_level_types_and_padding(byte_level):
    found = values(byte_level, 320)
    types = dict(zip(found["ggml.tokens"], found["ggml.token_type"], strict=True))
    assert types["<|endoftext|>"] == types["<|im_start|>"] == TokenType.CONTROL
    assert types["<tool>"] == TokenType.USER_DEFINED
    assert types["a"] == TokenType.NORMAL
    assert found["ggml.tokens"][319] == "[PAD319]"
    assert types["[PAD319]"] == TokenType.UNUSED
    assert found["ggml.bos_token_id"] == 0  # the tokenizer's name wins over config.json


def test_named_chat_templates_get_their_own_keys(byte_level):
    further = byte_level / "additional_chat_templates"
    further.mkdir()
    (further / "tool_use.jinja").write_text("tools")
    found = values(byte_level, 320)
    assert found["chat_template"].startswith("{% for m")
    assert found["chat_template.tool_use"] == "tools"


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"type": "ByteLevel"}, {"bos": False, "eos": False}),
        (
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<|endoftext|>"}}, {"Sequence": {"id": "A"}}],
                "pair": [],
            },
            {"bos": True},
        ),
        (
            {
                "type": "Sequence",
                "processors": [
                    {"type": "ByteLevel"},
                    {
                        "type": "TemplateProcessing",
                        "single": [
                            {"Sequence": {"id": "A"}},
                            {"SpecialToken": {"id": "<|endoftext|>"}},
                        ],
                        "pair": [
                            {"Sequence": {"id": "A"}},
                            {"SpecialToken": {"id": "<|endoftext|>"}},
                            {"Sequence": {"id": "B"}},
                        ],
                    },
                ],
            },
            {"bos": False, "eos": True, "sep": True},
        ),
    ],
)
def test_post_processors_say_what_is_added(byte_level, processor, expected):
    change(byte_level / "tokenizer.json", lambda d: d.update(post_processor=processor))
    found = values(byte_level, 320)
    assert {k: found.get(f"ggml.add_{k}_token") for k in expected} == expected


def test_sentencepiece_tokens_and_their_types(tmp_path):
    write_sentencepiece(tmp_path)
    found = values(tmp_path, 320)
    types = found["ggml.token_type"]
    assert found["ggml.tokens"][:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert found["ggml.tokens"][318:] == ["<|user|>", " word"]
    assert types[318:] == [TokenType.CONTROL, TokenType.USER_DEFINED]
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"]) == (1, 2)
    assert found["ggml.add_bos_token"] is True
    assert len(found["ggml.scores"]) == 320


def test_damaged_sentencepiece_model_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\xff\xff nonsense")
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        values(tmp_path, 320)


def test_llama_merges_become_scores_in_the_same_order(llama_bpe):
    found = values(llama_bpe, 420)
    scores = dict(zip(found["ggml.tokens"], found["ggml.scores"], strict=True))
    merges = json.loads((llama_bpe / "tokenizer.json").read_text())["model"]["merges"]
    joined = [scores["".join(pair)] for pair in merges]
    assert joined == sorted(joined, reverse=True)
    assert found["ggml.add_space_prefix"] is True
    assert found["ggml.token_type"][0] == TokenType.UNKNOWN


def test_llama_bpe_with_other_spaces_is_refused(llama_bpe):
    change(llama_bpe / "tokenizer.json", lambda d: d.update(normalizer={"type": "Lowercase"}))
    with pytest.raises(TokenizerError, match="spaces are not handled"):
        values(llama_bpe, 420)


def extra_token(**entry):
    return lambda d: d["added_tokens"].append(entry)


def processor(**rules):
    return {"type": "TemplateProcessing", **rules}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["model"].update(type="Unigram"), "'Unigram' is not supported"),
        (lambda d: d["model"].update(vocab={}), "empty"),
        (lambda d: d["model"]["vocab"].update(x=320), "id 320"),
        (lambda d: d["model"]["vocab"].update(x=-1), "id -1"),
        (lambda d: d["model"]["vocab"].update(x="3"), "id '3'"),
        (lambda d: d["model"]["vocab"].update(zz=7), "uses an id twice"),
        (lambda d: d["model"].update(merges=[]), "without merges"),
        (lambda d: d["model"].update(merges=[["a", "b", "c"]]), "not a pair"),
        (lambda d: d["model"].update(merges=[5]), "not a pair"),
        (lambda d: d["model"].update(merges=7), "not a list"),
        (lambda d: d.update(normalizer={"type": "Lowercase"}), "'Lowercase' is not supported"),
        (lambda d: d.update(added_tokens={"a": 1}), "added_tokens: not a list"),
        (extra_token(id=999, content="x"), "id 999"),
        (extra_token(id=None, content="x"), "no integer id"),
        (extra_token(id=5, content=None), "no text"),
        (lambda d: d.update(pre_tokenizer=[]), "pre_tokenizer"),
        (lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": 3}), "not a list"),
        (lambda d: d.update(post_processor={"type": "Sequence", "processors": 3}), "processors"),
        (lambda d: d.update(post_processor=processor(single=7)), "single: not a list"),
        (lambda d: d.update(post_processor=processor(single=[{"SpecialToken": 7}])), "single"),
    ],
)
def test_hostile_tokenizer_json_is_refused(byte_level, edit, message):
    change(byte_level / "tokenizer.json", edit)
    with pytest.raises(TokenizerError, match=message):
        values(byte_level, 320)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"chat_template": 3}', "chat_template"),
        (b'{"chat_template": [{"name": "x"}]}', "chat_template"),
        (b'{"add_prefix_space": "yes"}', "add_prefix_space"),
    ],
)
def test_hostile_tokenizer_config_is_refused(byte_level, settings, message):
    (byte_level / "chat_template.jinja").unlink()
    (byte_level / "tokenizer_config.json").write_bytes(settings)
    with pytest.raises(TokenizerError, match=message):
        values(byte_level, 320)


def test_special_ids_beyond_the_vocabulary_are_refused(byte_level):
    with pytest.raises(TokenizerError, match="pad_token_id 320 is beyond 320 tokens"):
        values(byte_level, 320, Config({"pad_token_id": 320}, "config.json"))


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=r"neither tokenizer.model nor tokenizer.json"):
        values(tmp_path, 320)
