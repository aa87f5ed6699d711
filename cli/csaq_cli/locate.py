"""FILE as the user gave it → the one GGUF that is meant."""

from pathlib import Path

from csaq_runtime.errors import UsageError


def find_gguf(path: Path) -> Path:
    """`path` itself, or the only GGUF in the folder `path`; raises UsageError otherwise."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise UsageError(f"{path}: no such file or folder")
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
