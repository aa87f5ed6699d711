"""Files of the methods run: logits are those of the matrices they stand for."""

import numpy as np
import pytest
import torch

from csaq_export.guidance import Calibrating
from csaq_export.methods.tacq import TacqRequest, convert_tacq
from csaq_export.methods.tiers import Tiers, TiersRequest, convert_tiers
from csaq_export.pipeline import Conversion
from csaq_export.torch_model import load_torch_model
from csaq_runtime.engine import Engine
from csaq_runtime.errors import GGUFError
from csaq_runtime.gguf import open_gguf
from tests.export.dense_file import dense
from tests.export.models import TEXT, save_folder

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
IDS = np.random.default_rng(0).integers(0, 300, (24, 8)).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_folder(path, "llama", **SHAPE)
    (path / "calib.txt").write_text(" ".join(TEXT))
    return path


def make(folder, method, out):
    calibrating = Calibrating(str(folder / "calib.txt"), 12, 24, 0, "cpu")
    conversion = Conversion(str(folder), out, "", force=True)
    if method == "tiers":
        convert_tiers(conversion, TiersRequest(calibrating, Tiers(0.05, 0.2, 4)), lambda *_: None)
    else:
        wanted = TacqRequest(calibrating, folder / "calib.txt", 3, 0.02)
        convert_tacq(conversion, wanted, lambda *_: None)


def reference(folder, matrices):
    """Logits of the torch model with these matrices."""
    model = load_torch_model(folder)
    for name, values in matrices.items():
        model.write(name, torch.from_numpy(values).reshape(model.parameter(name).shape))
    with torch.no_grad():
        return model.model(torch.tensor(IDS)).logits.flatten(0, 1).numpy()


@pytest.mark.parametrize("method", ["tiers", "tacq"])
def test_logits_are_those_of_the_matrices_put_together(folder, tmp_path, method):
    """Bases meet activations of 8 bits, as in any quantized file, hence not to the last digit."""
    out = tmp_path / "out.gguf"
    make(folder, method, out)
    with Engine.open(out, cache_type="f32", n_threads=1) as engine:
        found = np.concatenate([engine.logits(ids) for ids in IDS])
    with open_gguf(out) as file:
        base = {n: file.float32(n) for n in file.tensors if n.endswith(".weight")}
    errors = []
    for matrices in (dense(out), base):
        expected = reference(folder, matrices)
        errors.append(np.abs(found - expected).mean() / np.ptp(expected))
    assert errors[0] < 3e-3
    assert errors[0] < 0.2 * errors[1]


def test_a_weight_in_both_sets_is_refused(folder, tmp_path):
    out = tmp_path / "out.gguf"
    make(folder, "tiers", out)
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
