"""A packed model → a folder that `AutoModelForCausalLM.from_pretrained` loads."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from csaq_export.hf.config import CSAQConfig
from csaq_export.hf.manifest import MANIFEST, manifest
from csaq_runtime.errors import ResourceError, UsageError


def export_csaq_model(
    model: PreTrainedModel,
    *where: Any,
    info: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> str:
    """Write config.json, model.safetensors and, if given, tokenizer and `csaq_manifest.json`.

    `where` is the folder: `export_csaq_model(model, folder)`. csaq-quant's order
    `(model, config, budget, folder)` is taken too; what it repeats the model knows by itself.
    `info` of `quantize` goes into the manifest: cliques, their bits, figures. The folder appears
    whole or not at all. Returns its absolute path. Raises UsageError if the model is not packed or
    the folder has files, ResourceError where it cannot be written.
    """
    folder = _folder(where)
    if not isinstance(getattr(model.config, "quantization_config", None), CSAQConfig):
        raise UsageError("the model has no packed layers", "quantize(model, calib, config)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists already")
    partial = folder.with_name(folder.name + ".partial")
    try:
        _write(model, partial, info, tokenizer)
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return str(folder)


def _folder(where: tuple[Any, ...]) -> Path:
    if len(where) not in (1, 3) or not isinstance(where[-1], str | os.PathLike):
        raise UsageError("say which folder: export_csaq_model(model, folder)")
    return Path(where[-1]).absolute()


def _write(
    model: PreTrainedModel,
    folder: Path,
    info: Mapping[str, Any] | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    if info is not None:
        text = json.dumps(manifest(info), indent=1, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
