"""Statistics agree with autograd on the whole model, add over ranks, and survive a kill."""

import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils._python_dispatch import TorchDispatchMode

from csaq_export.calibration import Calibration
from csaq_export.statistics import EMBEDDING, HEAD, Collection, Statistics, collect, layer_part
from csaq_export.statistics.decoder import take_apart
from csaq_export.statistics.labels import sampled_labels
from csaq_export.workdir import WorkDir
from tests.export.models import build_model

N_WINDOW, SEQ_LEN, BATCH = 6, 12, 2
IDENTITY = {"model": "tiny"}


def calibration():
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, 300, (N_WINDOW, SEQ_LEN), generator=generator)
    return Calibration(tokens, "random", "digest", 7)


def run(folder, share=0.1, model=None):
    settings = Collection(BATCH, torch.device("cpu"), share, {})
    model = (model or build_model("llama")).requires_grad_(False)
    decoder = take_apart(model, SEQ_LEN)
    return collect(decoder, calibration(), WorkDir(folder), IDENTITY, settings)


def reference(model, module_name):
    """Σ s̄ x xᵀ, Σδ², Σx² and Σ_b |g·W| of one linear layer from ordinary autograd."""
    module = model.get_submodule(module_name)
    n_out, n_in = module.weight.shape
    sums = [torch.zeros(n_in, n_in), torch.zeros(n_out), torch.zeros(n_in), torch.zeros(n_out)]
    module.weight.requires_grad_(True)
    for number, tokens in enumerate(calibration().tokens.split(BATCH)):
        seen = {}
        hooks = [
            module.register_forward_hook(lambda m, a, z, s=seen: s.update(x=a[0], z=z)),
            module.register_full_backward_hook(lambda m, a, d, s=seen: s.update(delta=d[0])),
        ]
        logits = model(tokens).logits
        labels = sampled_labels(logits.detach(), 7, number)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, reduction="sum")
        module.weight.grad = None
        loss.backward()
        x, delta = seen["x"].detach().flatten(0, 1), seen["delta"].flatten(0, 1)
        sums[0] += (x * delta.square().mean(1, keepdim=True)).T @ x
        sums[1] += delta.square().sum(0)
        sums[2] += x.square().sum(0)
        sums[3] += (module.weight.grad * module.weight.detach()).abs().sum(1)
        for hook in hooks:
            hook.remove()
    module.weight.requires_grad_(False)
    return sums


def test_layers_agree_with_autograd_through_the_whole_model(tmp_path):
    statistics = run(tmp_path)
    model = build_model("llama")
    model.requires_grad_(False)
    model.model.embed_tokens.weight.requires_grad_(True)  # so that gradients flow at all
    for index, name in ((0, "self_attn.q_proj"), (2, "mlp.down_proj")):
        found = statistics.of(layer_part(index))[name]
        curvature, rows, square, salience = reference(model, f"model.layers.{index}.{name}")
        torch.testing.assert_close(found.curvature[0], curvature, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.row_curvature, rows, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.input_square, square, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.salience_rows, salience, rtol=1e-3, atol=1e-4)
        assert found.n_token == N_WINDOW * SEQ_LEN


def test_salience_sums_agree_with_each_other(tmp_path):
    found = run(tmp_path).of(layer_part(1))["mlp.up_proj"]
    total = found.salience_rows.sum()
    torch.testing.assert_close(found.salience_columns.sum(), total)
    torch.testing.assert_close(found.salience_blocks.sum(), total)


def test_coactivation_counts_pairs_of_the_largest_outputs(tmp_path):
    found = run(tmp_path).of(layer_part(0))["self_attn.k_proj"]
    counts = found.coactivation
    n_out = counts.shape[0]
    assert torch.equal(counts, counts.T)
    assert torch.diagonal(counts).sum() == N_WINDOW * SEQ_LEN * max(1, round(0.1 * n_out))


def test_sketch_keeps_row_similarity(tmp_path):
    found = run(tmp_path).of(layer_part(1))["self_attn.o_proj"]
    estimate = (found.profile.square().sum(0) / found.profile.shape[0]).sum()
    assert estimate > 0
    assert found.profile.shape == (64, 64)


def test_embedding_rows_never_looked_up_have_no_curvature(tmp_path):
    rows = run(tmp_path).of(EMBEDDING)[""].row_curvature
    used = torch.zeros(len(rows), dtype=torch.bool)
    used[calibration().tokens.flatten()] = True
    assert bool((rows[~used] == 0).all())
    assert bool((rows[used] > 0).any())


def test_weights_stay_without_gradients(tmp_path):
    model = build_model("qwen2-tied")
    run(tmp_path, model=model)
    assert all(parameter.grad is None for parameter in model.parameters())


class Products(TorchDispatchMode):
    """Shapes of all matrix products made inside the context."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.shapes.add(tuple(found.shape))
        return found


def test_no_full_weight_gradient_ever_exists(tmp_path, monkeypatch):
    """Where a gradient may have few weights, no product has the shape of a matrix."""
    matrices = {(320, 64), (96, 64), (32, 64)}
    with Products() as whole:
        wide = run(tmp_path / "wide")
    assert matrices <= whole.shapes
    monkeypatch.setattr("csaq_export.statistics.linear.GRADIENT_WEIGHTS", 8 * 96)
    with Products() as parts:
        narrow = run(tmp_path / "narrow")
    assert not matrices & parts.shapes
    assert_same(narrow, wide, exact=False)


class Box:
    """A tensor that lives as long as the graph that saved it."""

    def __init__(self, tensor):
        self.tensor = tensor


def most_saved(work):
    """Bytes that autograd keeps for backward passes at the worst moment of `work`."""
    now = most = 0

    def release(n_byte):
        nonlocal now
        now -= n_byte

    def pack(tensor):
        nonlocal now, most
        now, box = now + tensor.nbytes, Box(tensor)
        most = max(most, now)
        weakref.finalize(box, release, tensor.nbytes)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        work()
    return most


def test_a_backward_pass_keeps_one_layer_however_many_there_are(tmp_path):
    models = [build_model("llama", num_hidden_layers=n) for n in (2, 6)]
    two, six = (most_saved(lambda m=m: run(tmp_path / str(id(m)), model=m)) for m in models)
    assert two == six > 0

    def plain(model):
        model.requires_grad_(True)(calibration().tokens[:BATCH]).logits.sum().backward()

    two, six = (most_saved(lambda m=m: plain(m)) for m in models)
    assert six > 2 * two


def test_killed_run_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    saves = WorkDir.save
    n_saved = 0

    def dies_later(self, stage, fingerprint, tensors):
        nonlocal n_saved
        n_saved += 1
        if n_saved == 8:
            raise KeyboardInterrupt
        saves(self, stage, fingerprint, tensors)

    monkeypatch.setattr(WorkDir, "save", dies_later)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(WorkDir, "save", saves)
    assert_same(run(tmp_path / "killed"), whole, exact=True)
    assert not list((tmp_path / "killed").glob("*-lane-*"))


def assert_same(one: Statistics, other: Statistics, exact: bool) -> None:
    for part in (EMBEDDING, layer_part(0), layer_part(1), layer_part(2), HEAD):
        for name, linear in one.of(part).items():
            mine, theirs = linear.tensors(), other.of(part)[name].tensors()
            for field in mine:
                tolerance = {} if not exact else {"rtol": 0, "atol": 0}
                torch.testing.assert_close(mine[field], theirs[field], **tolerance)


def test_two_ranks_give_what_one_gives(tmp_path):
    mp.spawn(_rank, (str(tmp_path / "two"), str(tmp_path / "meeting")), nprocs=2)
    assert_same(run(tmp_path / "two"), run(tmp_path / "one"), exact=True)


def _rank(rank: int, folder: str, meeting: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    run(Path(folder))
    dist.destroy_process_group()
