"""`hf:org/repo[:TAG]` → a GGUF of the Hugging Face hub in the user's cache.

Names, tokens and transfers are huggingface_hub's (`HF_TOKEN`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE` are its variables); here a file is chosen and failures become one line.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from csaq_cli.hub_download import cached_files, download
from csaq_runtime.errors import ModelError, UsageError

PREFIX = "hf:"
# What llama.cpp's -hf takes where no tag is given, else the first file.
PREFERRED_TAGS = ("Q4_K_M", "Q8_0")
TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(:(?P<tag>[\w.-]+))?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)


def fetch_gguf(name: str) -> Path:
    """Download the GGUF that `name` (without the prefix) means, unless it is in the cache.

    Raises UsageError for a name of another form or a tag that no file has, ModelError where
    the hub does not have the model or cannot be reached and the cache does not have it.
    """
    from huggingface_hub.utils.logging import set_verbosity_error

    # Its warnings about retries would stand around the one line that a failure is here.
    set_verbosity_error()  # type: ignore[no-untyped-call]
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{PREFIX}{name}: not of the form {PREFIX}org/repo[:TAG]")
    repo, tag = match["repo"], match["tag"]
    with _failures_named(repo):
        return _fetch(repo, tag)


def choose_file(names: Sequence[str], repo: str, tag: str | None) -> str:
    """The GGUF of `names` that `tag` means: its type, or its whole name; letter case is ignored."""
    files = [n for n in names if n.lower().endswith(".gguf") and "mmproj" not in n.lower()]
    if not files:
        raise ModelError(f"{repo}: holds no GGUF file", f"csaq convert {repo} --to gguf makes one")
    for wanted in (tag,) if tag else PREFERRED_TAGS:
        found = [file for file in files if _has_tag(file, wanted)]
        if found:
            return _whole(found[0], repo)
    if tag:
        shown = ", ".join(PurePosixPath(file).name for file in files[:20])
        raise UsageError(f"{repo}: no file is tagged {tag}", f"there are: {shown}")
    return _whole(files[0], repo)


def _has_tag(file: str, tag: str) -> bool:
    """Whether the part of the name before `.gguf` (or before a shard's number) ends in `tag`."""
    stem = _SHARD.sub("", file) if _SHARD.search(file) else file[: -len(".gguf")]
    stem, tag = stem.lower(), tag.lower()
    return stem.endswith((f"-{tag}", f".{tag}", f"_{tag}")) or PurePosixPath(stem).name == tag


def _whole(file: str, repo: str) -> str:
    if _SHARD.search(file):
        raise ModelError(
            f"{repo}: {file} is one part of several", "join them with llama-gguf-split --merge"
        )
    return file


def _fetch(repo: str, tag: str | None) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        names = HfApi().list_repo_files(repo)
    except Exception as error:
        if not (isinstance(error, OfflineModeIsEnabled) or _is_transport(error)):
            raise
        return _from_cache(repo, tag)
    return download(repo, choose_file(names, repo, tag))


def _is_transport(error: Exception) -> bool:
    """Whether no answer came; whose exception that is depends on huggingface_hub's age."""
    return type(error).__module__.partition(".")[0] in TRANSPORTS


def _from_cache(repo: str, tag: str | None) -> Path:
    """What an earlier run has fetched completely."""
    held = cached_files(repo)
    if not held:
        raise ModelError(f"{repo}: the hub cannot be reached and the cache does not have it")
    return held[choose_file(sorted(held), repo, tag)]


@contextmanager
def _failures_named(repo: str) -> Iterator[None]:
    """The hub's exceptions as one line each."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ModelError(f"{repo}: access must be granted", f"see hf.co/{repo}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "private ones need HF_TOKEN"
        raise ModelError(f"{repo}: the hub has no such model", hint) from error
    except Exception as error:
        if not (isinstance(error, HfHubHTTPError) or _is_transport(error)):
            raise
        said = str(error).strip() or type(error).__name__
        message = f"{repo}: cannot be fetched: {said.splitlines()[0]}"
        raise ModelError(message, "try again: it goes on where it stopped") from error
