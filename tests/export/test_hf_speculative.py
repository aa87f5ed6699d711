from collections import Counter
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from csaq_export import CSAQInferenceEngine, SpeculativeReport
from csaq_export.hf.linear import CSAQLinear
from csaq_export.hf.speculative.reply import Reply
from csaq_export.hf.speculative.rows import RowsDrafter, cheaper, cheaper_layers, replaced
from csaq_runtime.errors import UsageError
from csaq_runtime.sample import Sampler, Sampling
from csaq_runtime.speculate.auto import Auto
from csaq_runtime.speculate.drafter import Draft
from csaq_runtime.speculate.ngram import NGramDrafter
from csaq_runtime.speculate.strategy import Fixed
from tests.export.models import byte_level_tokenizer
from tests.export.packed_models import WIDE, packed, packed_model

PROMPT = torch.tensor([[5, 17, 60, 3, 5, 17]])


@pytest.fixture(scope="module")
def model():
    model, _ = packed_model("llama", num_hidden_layers=2)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def causal_map(model):
    return {
        name: torch.nonzero(linear.qweight.row_bits() >= 8)[:, 0].tolist()
        for name, linear in model.named_modules()
        if isinstance(linear, CSAQLinear)
    }


@pytest.fixture(scope="module")
def engine(model, causal_map):
    return CSAQInferenceEngine(model, causal_map)


@pytest.mark.parametrize("draft", ["ngram", "rows"])
@pytest.mark.parametrize("lookahead", [1, 4])
def test_greedy_replies_are_those_of_the_model(model, engine, draft, lookahead):
    expected = model.generate(PROMPT, max_new_tokens=40, do_sample=False, pad_token_id=0)
    plain, _ = engine.generate(PROMPT, temperature=0, max_new_tokens=40)
    found, report = engine.generate(
        PROMPT,
        speculative=True,
        lookahead=lookahead,
        temperature=0,
        max_new_tokens=40,
        draft=draft,
    )
    assert torch.equal(plain, expected)
    assert torch.equal(found, expected)
    assert report.mode == draft
    assert report.tokens_generated == 40
    assert 0 < report.tokens_accepted <= report.tokens_drafted
    assert report.tokens_accepted + report.n_step == 39
    assert report.n_step < 39


@pytest.mark.parametrize("draft", ["auto", "ngram"])
def test_sampled_replies_of_a_seed_are_the_same_with_lookup(engine, draft):
    settings = {"temperature": 1.5, "top_p": 0.9, "max_new_tokens": 30, "seed": 3}
    plain, _ = engine.generate(PROMPT, **settings)
    found, report = engine.generate(PROMPT, speculative=True, draft=draft, **settings)
    assert torch.equal(found, plain)
    assert report.mode == draft
    other, _ = engine.generate(PROMPT, **(settings | {"seed": 4}))
    assert not torch.equal(other, plain)


class Table:
    """A context whose model knows the last token only; its cheaper layer knows it less well."""

    def __init__(self, logits, cheap_logits):
        self.model = nn.Module()
        self.model.layer = nn.Identity()
        self.tables, self.n_past, self.room = (logits, cheap_logits), 0, 1000

    def run(self, ids, n_output):
        self.n_past += len(ids)
        table = self.tables[not isinstance(self.model.layer, nn.Identity)]
        return table[np.array(ids[-n_output:])]

    def truncate(self, n):
        self.n_past = n


def test_drawn_drafts_leave_the_distribution_as_it_is():
    """χ² of 6000 replies of three tokens against their exact probabilities; 0.1 % would fail."""
    chance = np.random.default_rng(1)
    logits, cheap = (chance.normal(0, 1, (4, 4)).astype(np.float32) for _ in range(2))
    cheap = (logits + cheap).astype(np.float32)
    context, seen, n = Table(logits, cheap), Counter(), 6000
    drafter = Fixed(RowsDrafter(context, {"layer": nn.Flatten()}), 2)
    sampler = Sampler(Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=7))
    accepted = 0
    for _ in range(n):
        context.truncate(0)
        reply = Reply(context, [0], sampler, (), drafter, 2)
        reply.grow(3)
        accepted += reply.report("rows").tokens_accepted
        seen[tuple(reply.ids[1:])] += 1
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    expected = {ids: n * p[0, ids[0]] * p[ids[0], ids[1]] * p[ids[1], ids[2]]
                for ids in product(range(4), repeat=3)}  # fmt: skip
    likely = [ids for ids in expected if expected[ids] >= 5]
    rest = n - sum(expected[ids] for ids in likely), n - sum(seen[ids] for ids in likely)
    chi = sum((seen[ids] - expected[ids]) ** 2 / expected[ids] for ids in likely)
    chi += (rest[1] - rest[0]) ** 2 / max(rest[0], 1e-9)
    # The 99.9 % quantile of χ² by Wilson and Hilferty.
    k = len(likely)
    assert chi < k * (1 - 2 / (9 * k) + 3.09 * (2 / (9 * k)) ** 0.5) ** 3
    assert 0.2 * n < accepted < n


class Timed(Table):
    """Counts modulo four; a pass takes a second, and `each` more for every further token."""

    def __init__(self, monkeypatch, each):
        super().__init__(np.roll(np.eye(4, dtype=np.float32), 1, axis=1), None)
        self.now, self.each = 0.0, each
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def run(self, ids, n_output):
        self.now += 1 + self.each * (len(ids) - 1)
        return super().run(ids, n_output)


@pytest.mark.parametrize(("each", "speed"), [(0.1, 2.5), (1.0, 0.98)])
def test_auto_drafts_where_a_pass_of_several_tokens_is_cheap(monkeypatch, each, speed):
    """What repeats is known; whether that helps depends on the cost of checking it."""
    auto = Auto([NGramDrafter()], 15)
    context, sampler = Timed(monkeypatch, each), Sampler(Sampling(temperature=0))
    reply = Reply(context, [0], sampler, (), auto, 15)
    reply.grow(200)
    assert reply.ids == [i % 4 for i in range(201)]
    assert reply.report("auto").speedup_factor > speed


def test_a_draft_rolled_back_leaves_no_trace(engine, model, causal_map):
    """Rows drafted wrongly on purpose: none stands, and the reply is the plain one."""

    class Wrong:
        name, wants_hidden = "wrong", False

        def begin(self, sampler):
            pass

        def propose(self, context, n, hidden):
            return Draft([1] * n)

    plain, _ = engine.generate(PROMPT, temperature=0, max_new_tokens=12)
    engine._strategy = lambda *settings: Fixed(Wrong(), 4)
    try:
        found, report = engine.generate(PROMPT, speculative=True, temperature=0, max_new_tokens=12)
    finally:
        del engine._strategy
    assert torch.equal(found, plain)
    assert report.tokens_accepted <= (plain == 1).sum()
    assert report.speedup_factor > 0
    assert report.plain_step_s > 0


def test_cheaper_rows_have_four_bits_and_others_stay():
    weight = torch.randn(40, 256, generator=torch.Generator().manual_seed(0))
    found = packed(weight, WIDE)
    high = torch.nonzero(found.row_bits() >= 8)[:, 0]
    low = cheaper(found, high[:-1])
    assert low.row_bits()[high[:-1]].tolist() == [4] * (len(high) - 1)
    others = torch.ones(40, dtype=torch.bool).index_fill_(0, high[:-1], False)
    assert torch.equal(low.dequantize()[others], found.dequantize()[others])
    assert low.n_bytes < found.n_bytes
    error = (low.dequantize() - weight).norm(dim=1) / weight.norm(dim=1)
    assert error[high[:-1]].max() < 0.1


def test_layers_are_put_back(model, causal_map):
    layers = cheaper_layers(model, causal_map)
    before = dict(model.named_modules())
    name = next(iter(layers))
    with replaced(model, layers):
        assert model.get_submodule(name) is layers[name]
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize(
    ("causal_map", "words"),
    [({}, "protects no rows"), ({"model.norm": [1]}, "no packed layer"), ({"x": [1]}, "x")],
)
def test_a_map_of_another_model_is_refused(model, causal_map, words):
    engine = CSAQInferenceEngine(model, causal_map)
    with pytest.raises(UsageError, match=words):
        engine.generate(PROMPT, speculative=True, draft="rows")


@pytest.mark.parametrize(
    ("ids", "settings"),
    [
        (torch.zeros(2, 3, dtype=torch.long), {}),
        (torch.zeros(3, dtype=torch.long), {}),
        (torch.zeros(1, 0, dtype=torch.long), {}),
        (PROMPT, {"lookahead": 0}),
        (PROMPT, {"draft": "magic"}),
        (PROMPT, {"temperature": float("nan")}),
        (torch.zeros(1, 128, dtype=torch.long), {}),
    ],
)
def test_senseless_settings_are_refused(engine, ids, settings):
    with pytest.raises(UsageError):
        engine.generate(ids, **settings)


def test_a_reply_ends_with_a_stop_or_the_context(model, engine):
    plain, _ = engine.generate(PROMPT, temperature=0, max_new_tokens=20)
    stop = int(plain[0, PROMPT.shape[1] + 7])
    tokenizer = SimpleNamespace(eos_token_id=stop)
    ends = CSAQInferenceEngine(model, {}, tokenizer)
    found, report = ends.generate(PROMPT, speculative=True, temperature=0, max_new_tokens=20)
    first = plain[0, PROMPT.shape[1] :].tolist().index(stop)
    assert torch.equal(found, plain[:, : PROMPT.shape[1] + first + 1])
    assert report.tokens_generated == first + 1
    whole, _ = engine.generate(PROMPT, speculative=True, temperature=0, max_new_tokens=999)
    assert whole.shape[1] == model.config.max_position_embeddings
    tokenizer = byte_level_tokenizer("llama-bpe")
    assert tokenizer.eos_token_id in CSAQInferenceEngine(model, {}, tokenizer)._stops


def test_the_report_adds_up():
    report = SpeculativeReport("ngram", 11, 12, 6, 5, 4, 4, 0.5, 0.2, 0.04)
    assert report.tokens_rejected == 6
    assert report.summary() == {
        "mode": "ngram",
        "tokens_generated": 11,
        "acceptance_rate": 0.5,
        "tokens_per_step": 2.5,
        "speedup_factor": 2.0,
        "inter_token_latency_ms": 20.0,
        "plain_step_ms": 40.0,
        "block_efficiency": 1.5,
        "draft_calls": 5,
        "verify_calls": 4,
        "wallclock_s": 0.7,
    }
    assert SpeculativeReport("plain", 1, 0, 0, 0, 0, 0, 0.1, 0.0, 0.0).speedup_factor == 1.0
