"""What the user names → Model: a local folder, a GGUF file or a model of the Hugging Face hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csaq_export.gguf_source import open_gguf_model
from csaq_export.hf_folder import open_folder
from csaq_export.model import Model
from csaq_runtime.errors import ModelError, UsageError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Weights as safetensors, their description and the tokenizer; nothing that runs code.
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "README.md"]
HUB_IGNORED = ["*/*", "consolidated*"]


@contextmanager
def open_model(source: str, revision: str | None = None) -> Iterator[Model]:
    """The model `source` names; its weights can be read inside the context.

    `revision` is a branch, tag or commit of the hub. Raises UsageError if nothing
    has this name, ModelError if it cannot be converted.
    """
    path = Path(source)
    if revision is not None and path.exists():
        raise UsageError(f"{source}: lies on this machine and has no revision {revision!r}")
    if path.is_file():
        with open_gguf_model(path) as model:
            yield model
    elif path.is_dir():
        yield open_folder(path, path.resolve().name)
    elif HUB_NAME.fullmatch(source):
        yield open_folder(download(source, revision), source)
    else:
        raise UsageError(
            f"{source}: no such folder or file, and not a hub name",
            "give a folder with config.json, a .gguf file, or a name like Qwen/Qwen3-0.6B",
        )


def download(name: str, revision: str | None) -> Path:
    """Fetch what conversion needs of a hub model into the user's cache; returns the folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{name}: cannot be fetched: {reason}") from error
    return Path(folder)
