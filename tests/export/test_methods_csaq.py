"""CSAQ end to end on a tiny model: exact size, tiers that run, the stock file of it."""

import numpy as np
import pytest

from csaq_export.guidance import Calibrating
from csaq_export.methods.csaq.convert import convert_csaq
from csaq_export.methods.csaq.options import CsaqRequest, read_bits
from csaq_export.methods.stock import convert_stock
from csaq_export.pipeline import Conversion, convert
from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.gguf import open_gguf
from csaq_runtime.hparams import read_hparams
from csaq_runtime.tensors import check_tensors
from tests.export.models import TEXT, save_folder

SHAPE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
IDS = list(range(3, 40))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, rows file, its plan)"""
    folder = tmp_path_factory.mktemp("csaq")
    save_folder(folder, "llama3-tied", **SHAPE)
    (folder / "calib.txt").write_text(" ".join(TEXT))
    calibrating = Calibrating(str(folder / "calib.txt"), 8, 16, 0, "cpu")
    out = folder / "rows.gguf"
    request = CsaqRequest(calibrating, 5.0, similarity=0.5, work_dir=folder / "work")
    return folder, out, convert_csaq(Conversion(str(folder), out, "Q4_K_M"), request, silent)


def silent(stage, done, total):
    pass


def test_the_size_is_the_targets_and_bpw_counts_every_byte(made):
    _, out, plan = made
    n_byte = out.stat().st_size
    assert n_byte == plan.n_bytes
    with open_gguf(out) as file:
        assert file.number("csaq.actual_bpw") == pytest.approx(8 * n_byte / plan.n_weight)
    assert -0.005 < plan.bpw - 5.0 <= 0


def test_rows_have_their_bits_and_the_upper_tiers_are_accurate(made):
    folder, out, _ = made
    original = folder / "f32.gguf"
    convert(Conversion(str(folder), original, "F32"))
    errors = {}
    with open_gguf(out) as file, open_gguf(original) as exact:
        for base, weight in check_tensors(file, read_hparams(file)).items():
            meant, found = exact.float32(f"{base}.weight"), weight.float32(file)
            for info, rows in weight.tiers.parts():
                error = np.linalg.norm(found[rows] - meant[rows]) / np.linalg.norm(meant[rows])
                errors.setdefault(info.type.name, []).append(error)
    assert {"Q8_0", "Q4_K", "Q2_K"} <= errors.keys()
    assert max(errors["Q8_0"]) < 0.01
    assert max(errors.get("F16", [0])) < 1e-3


def test_logits_are_those_of_the_stock_file_of_the_same_weights(made, tmp_path):
    _, out, _ = made
    stock = tmp_path / "stock.gguf"
    convert_stock(Conversion(str(out), stock, "F16"), lambda progress: None)
    with Engine.open(out, n_threads=1) as rows, Engine.open(stock, n_threads=1) as plain:
        found, expected = rows.logits(IDS).copy(), plain.logits(IDS).copy()
    with open_gguf(stock) as file:
        assert file.text("general.architecture") == "llama"
        assert not [name for name in file.tensors if ".rows" in name]
    assert np.abs(found - expected).mean() < 0.02 * np.ptp(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_the_same_request_gives_the_same_bytes(made, tmp_path):
    folder, out, _ = made
    calibrating = Calibrating(str(folder / "calib.txt"), 8, 16, 0, "cpu")
    again = tmp_path / "again.gguf"
    request = CsaqRequest(calibrating, 5.0, similarity=0.5)
    convert_csaq(Conversion(str(folder), again, "Q4_K_M"), request, silent)
    assert again.read_bytes() == out.read_bytes()


def test_too_few_bits_are_refused_with_the_arithmetic(made, tmp_path):
    folder, _, _ = made
    calibrating = Calibrating(str(folder / "calib.txt"), 8, 16, 0, "cpu")
    request = CsaqRequest(calibrating, 2.0, similarity=0.5, work_dir=folder / "work")
    with pytest.raises(UsageError, match=r"takes \d\.\d+ bits per weight with 2-bit rows"):
        convert_csaq(Conversion(str(folder), tmp_path / "x.gguf", "Q4_K_M"), request, silent)


def test_small_files_have_codebooks_for_rows_of_2_and_3():
    calibrating = Calibrating("calib.txt", 8, 16, 0, "cpu")
    small, large = (CsaqRequest(calibrating, bpw, (2, 3, 4)).types(256) for bpw in (3.4, 3.5))
    assert [kind.name for kind in small.values()] == ["IQ2_XXS", "IQ3_XXS", "Q4_K"]
    assert [kind.name for kind in large.values()] == ["Q2_K", "Q3_K", "Q4_K"]


def test_bits_and_groups_without_a_type_are_refused():
    assert read_bits("16,2,4", 256) == (2, 4, 16)
    with pytest.raises(UsageError, match="blocks fix how many"):
        read_bits("4", 128)
    with pytest.raises(UsageError, match="no type of 2 bits in blocks of 32"):
        read_bits("2,4", 32)
