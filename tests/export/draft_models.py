"""A tiny model, its GGUF and a head that was trained for it for a few steps."""

from pathlib import Path
from typing import Any

from csaq_export.draft.make import Drafting, Made, make_head
from csaq_export.pipeline import Conversion, convert
from csaq_export.workdir import WorkDir
from csaq_runtime.engine import Engine
from csaq_runtime.speculate.head import HeadDrafter
from tests.export.models import TEXT, save_folder


def drafting(folder: Path, **changes: Any) -> Drafting:
    """Eight windows of 24 tokens, half of them from a text."""
    text = folder / "text.txt"
    text.write_text(" ".join(TEXT))
    settings: dict[str, Any] = {"n_sample": 8, "seq_len": 24, "n_step": 4, "batch_size": 2}
    settings |= {"seed": 0, "device": "cpu", "force": False, "calib": str(text)}
    settings |= {"folder": folder, "out": folder / "model-draft.gguf"}
    return Drafting(**(settings | changes))


def model_with_head(folder: Path, kind: str) -> Made:
    """Write `model.gguf` (F32), `model-draft.gguf` and the work dir `work` into `folder`."""
    save_folder(folder, kind)
    convert(Conversion(str(folder), folder / "model.gguf", "F32"))
    return make_head(drafting(folder), WorkDir(folder / "work"), lambda *step: None)


def drafter_of(engine: Engine) -> HeadDrafter:
    """The head of an engine that was opened with `spec="head"`."""
    drafter: HeadDrafter = engine.strategy._records[0].drafter  # type: ignore[union-attr,assignment]
    return drafter
