"""FILE as the user gave it → the one GGUF that is meant."""

from pathlib import Path

from csaq_runtime.errors import UsageError


def find_gguf(path: Path) -> Path:
    """`path` itself, the only GGUF in the folder `path`, or the hub's `hf:org/repo[:TAG]`.

    Raises UsageError where nothing or no single file is meant, ModelError for what the hub
    does not give.
    """
    if path.is_file():
        return path
    if str(path).startswith("hf:"):
        from csaq_cli.hub import fetch_gguf

        return fetch_gguf(str(path).removeprefix("hf:"))
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder", _hub_name(path))
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{path}: holds {len(found)} GGUF files, name one: {names}")
    raise UsageError(f"{path}: holds no GGUF file", _what_else(path))


def _what_else(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"this looks like a Hugging Face model: csaq convert {folder} --to gguf"
    return ""


def _hub_name(path: Path) -> str:
    """A hint for something like `org/repo`, which may be a name of the hub."""
    parts = path.parts
    return f"a model of the hub is named hf:{path}" if len(parts) == 2 and parts[0] != "/" else ""
