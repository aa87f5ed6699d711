"""Chat templates: chat_template.jinja, chat_template.json or tokenizer_config.json → keys."""

from pathlib import Path
from typing import Any

import gguf

from csaq_export.config import Config, read_json
from csaq_export.metadata import Metadata
from csaq_runtime.errors import TokenizerError


def template_metadata(folder: Path, settings: Config) -> Metadata:
    """`tokenizer.chat_template`, and `tokenizer.chat_template.NAME` for further ones."""
    template = settings.values.get("chat_template") or _from_files(folder)
    if template is None:
        return {}
    named = isinstance(template, list) and all(_is_named(entry) for entry in template)
    if not named and not isinstance(template, str):
        raise TokenizerError(f"{settings.where}: chat_template is neither text nor named texts")
    writer = gguf.GGUFWriter(None, "")
    writer.add_chat_template(template)
    return dict(writer.kv_data[0])


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(
        isinstance(entry.get(key), str) for key in ("name", "template")
    )


def _from_files(folder: Path) -> Any:
    main, further = folder / "chat_template.jinja", folder / "additional_chat_templates"
    if main.is_file():
        texts = {"default": main} | {path.stem: path for path in sorted(further.glob("*.jinja"))}
        named = [
            {"name": name, "template": path.read_text(encoding="utf-8")}
            for name, path in texts.items()
        ]
        return named[0]["template"] if len(named) == 1 else named
    old = folder / "chat_template.json"
    return read_json(old, TokenizerError).get("chat_template") if old.is_file() else None
