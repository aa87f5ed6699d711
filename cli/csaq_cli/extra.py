"""The libraries only some commands need: their absence → an error that says how to get them."""

from collections.abc import Iterator
from contextlib import contextmanager

from csaq_runtime.errors import CsaqError


@contextmanager
def extra_installed(command: str) -> Iterator[None]:
    """Turn a missing library of the `convert` extra into a CsaqError that names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("csaq_"):
            raise
        message = f"{command} needs {error.name}, which is not installed"
        raise CsaqError(message, "pip install 'csaq-export[convert]'") from error
