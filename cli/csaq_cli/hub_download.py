"""One file of the Hugging Face hub → `~/.cache/csaq/hub`, going on where an earlier try stopped.

huggingface_hub finds, authorizes and transfers; since 2.0 it begins a file anew whenever the
process that fetched it has ended, which is why the part that came so far is kept here.
"""

import fcntl
import hashlib
import os
import re
from pathlib import Path
from typing import BinaryIO

from csaq_runtime.errors import ModelError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PIECE_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where fetched files are kept: `$CSAQ_CACHE_DIR/hub`, else `~/.cache/csaq/hub`."""
    chosen = os.environ.get("CSAQ_CACHE_DIR")
    if chosen:
        return Path(chosen) / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "csaq" / "hub"


def repo_folder(repo: str) -> Path:
    """The folder of a model's files; a folder per content inside."""
    return cache_folder() / repo.replace("/", "--")


def cached_files(repo: str) -> dict[str, Path]:
    """Completely fetched files by name; of several contents of one name the newest."""
    found = sorted(repo_folder(repo).glob("*/*.gguf"), key=lambda path: path.stat().st_mtime)
    return {path.name: path for path in found}


def download(repo: str, name: str) -> Path:
    """Fetch `name` of `repo`, unless it is there; progress goes to standard error.

    Raises what huggingface_hub raises, OSError, and ModelError where the content is not what
    the hub announced.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    metadata = get_hf_file_metadata(hf_hub_url(repo, name))
    tag, size = metadata.etag, metadata.size
    if tag is None or size is None or not re.fullmatch(r"[\w-]+", tag):
        raise ModelError(f"{repo}: the hub does not say what {name} is")
    final = repo_folder(repo) / tag / Path(name).name
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f"{final.name}.partial")
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two processes the second finds the file complete
        if not final.exists():
            _transfer(metadata.location, file, size, final.name)
            _check(partial, tag, f"{repo}: {name}")
            os.replace(partial, final)
    partial.unlink(missing_ok=True)
    return final


def _transfer(url: str, file: BinaryIO, size: int, name: str) -> None:
    """Append what is missing of `size` bytes to `file`."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    done = file.seek(0, os.SEEK_END)
    if done > size:
        done = file.truncate(0)
    if done < size:
        http_get(
            url,
            file,
            resume_size=done,
            headers=build_hf_headers(),
            expected_size=size,
            displayed_filename=name,
        )
    file.flush()
    os.fsync(file.fileno())


def _check(path: Path, tag: str, what: str) -> None:
    """Large files have their SHA-256 as tag: parts of two tries must make one whole."""
    if not _SHA256.fullmatch(tag):
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != tag:
        path.unlink()
        raise ModelError(f"{what}: what came is damaged, its sha256 is another", "fetch it again")
