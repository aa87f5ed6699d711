"""Files of the methods run: logits are those of the matrices they stand for."""

from functools import partial

import numpy as np
import pytest
import torch

from csaq_export.guidance import Calibrating
from csaq_export.lora import adapter_path
from csaq_export.methods.csaq.convert import convert_csaq
from csaq_export.methods.csaq.options import CsaqRequest
from csaq_export.methods.serq.recipe import SerqRequest, convert_serq
from csaq_export.methods.stock import convert_stock
from csaq_export.methods.tacq import TacqRequest, convert_tacq
from csaq_export.methods.tiers import Tiers, TiersRequest, convert_tiers
from csaq_export.pipeline import Conversion
from csaq_runtime.engine import Engine
from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import open_gguf
from tests.export.models import TEXT, save_folder
from tests.export.ties import CLOSE, Rounding, pass_of, settled
from tests.export.torch_reference import load_reference
from tests.parity.oracle import logits as oracle_logits

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
IDS = np.random.default_rng(0).integers(0, 300, (24, 8)).tolist()
METHODS = {
    "tiers": (convert_tiers, TiersRequest, {"tiers": Tiers(0.05, 0.2, 4)}),
    "tacq": (convert_tacq, TacqRequest, {"base_bits": 3, "outlier_ratio": 0.02}),
    "serq": (convert_serq, SerqRequest, {"w_bits": 4, "rank": 32}),
    "csaq": (convert_csaq, CsaqRequest, {"bpw": 6.0, "bits": (2, 8, 16), "n_sweep": 0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama", **SHAPE)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


@pytest.fixture(scope="module")
def made(folder):
    """Method → its file, made when asked for; all but TaCQ share a calibration."""

    def make(method):
        out = folder / f"{method}.gguf"
        if not out.exists():
            recipe, request, wanted = METHODS[method]
            task = {"task": folder / "calib.txt"} if method == "tacq" else {}
            calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
            work = folder / ("task" if task else "work")
            asked = request(calibrating, work_dir=work, **wanted, **task)
            recipe(Conversion(str(folder), out, ""), asked, lambda *_: None)
        return out

    return make


def ours(path):
    with Engine.open(path, cache_type="f32", n_threads=1) as engine:
        return np.stack([engine.logits(ids) for ids in IDS])


def reference(folder, path):
    rounding = Rounding()
    return pass_of(load_reference(folder, path, rounding).model, rounding)


@pytest.mark.parametrize("method", METHODS)
def test_logits_are_those_of_the_weights_and_activations_in_torch(folder, made, method):
    """In every text, where a code on a rounding boundary may fall either way."""
    path = made(method)
    found = ours(path)
    worst, flips = zip(*map(partial(settled, reference(folder, path)), IDS, found), strict=True)
    with torch.no_grad():
        exact = load_reference(folder, path).model(torch.tensor(IDS)).logits.numpy()
    print(method, max(worst), flips, np.abs(found - exact).max() / np.ptp(exact))
    assert max(worst) < 1e-4
    assert sum(map(len, flips)) < len(IDS) / 2
    assert np.abs(found - exact).mean() < 3e-3 * np.ptp(exact)


def test_a_code_on_the_other_side_of_a_boundary_is_found_and_a_wrong_one_is_not(folder, made):
    run, ids = reference(folder, made("csaq")), [*IDS[0], *IDS[1]]
    _, near = run(ids, ())
    moved, _ = run(ids, near[-1:])
    worst, flips = settled(run, ids, moved)
    assert flips == near[-1:]
    assert worst < CLOSE
    wrong, _ = run(ids, ())
    wrong[-1] += 2e-3 * np.ptp(wrong) * np.sign(np.arange(len(wrong[-1])) % 2 - 0.5)
    assert settled(run, ids, wrong)[0] > 1e-3


def test_llama_cpp_adds_protected_rows_and_gets_our_logits(made, tmp_path):
    rows, stock = made("csaq"), tmp_path / "stock.gguf"
    plan = convert_stock(Conversion(str(rows), stock, "F16"), lambda _: None, lora=True)
    assert stock.stat().st_size == plan.n_bytes < 0.7 * 2 * plan.n_weight
    found, ids = np.concatenate(ours(rows)[:8]), IDS[:8]
    plain = oracle_logits(stock, *ids)
    adapted = oracle_logits(stock, *ids, adapter=adapter_path(stock))
    near = np.abs(adapted - found).mean()
    print(near / np.ptp(found), near / np.abs(plain - found).mean())
    assert near < 5e-3 * np.ptp(found)
    assert near < 0.2 * np.abs(plain - found).mean()


def test_a_weight_in_both_sets_is_refused(made, tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(made("tiers").read_bytes())
    with open_gguf(out) as file:
        full, coarse = (file.tensors[f"blk.0.ffn_up.outlier{n}_columns"] for n in ("", "8"))
        rows = [file.data(f"blk.0.ffn_up.outlier{n}_offsets")[0].view("<i4") for n in ("", "8")]
        row = next(r for r in range(256) if all(each[r + 1] > each[r] for each in rows))
        column = file.data(full.name)[0].view("<u2")[rows[0][row]]
        ours = file.data(coarse.name)[0].view("<u2")[rows[1][row] : rows[1][row + 1]].copy()
        ours[np.searchsorted(ours, column) - (column > ours[-1])] = column
    with out.open("r+b") as raw:
        raw.seek(coarse.offset + 2 * int(rows[1][row]))
        raw.write(ours.tobytes())
    with pytest.raises(GGUFError, match="outlier8_columns"), Engine.open(out):
        pass
