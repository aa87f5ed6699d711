"""Every error a user can meet: one typed tree, one line of text, one hint, one exit code.

Raised wherever input is checked; the CLI prints `str(error)` and `error.hint`
and exits with `error.exit_code`.
"""


class CsaqError(Exception):
    """A failure with a message for the user; `hint` says what to try next (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(CsaqError):
    """The request itself makes no sense (contradicting options, missing input)."""

    exit_code = 2


class ModelError(CsaqError):
    """A model, source folder or file is damaged, hostile or of a kind not supported."""

    exit_code = 3


class GGUFError(ModelError):
    """A GGUF file breaks the format: names file, field and byte offset.

    `offset` is in bytes from the start of the file, or None where no single
    place is to blame.
    """

    def __init__(
        self, path: object, field: str, reason: str, offset: int | None = None, hint: str = ""
    ) -> None:
        where = "" if offset is None else f" (at byte {offset})"
        super().__init__(f"{path}: {field}: {reason}{where}", hint)
        self.path, self.field, self.reason, self.offset = path, field, reason, offset


class TokenizerError(ModelError):
    """A vocabulary is inconsistent, or of a kind this runtime does not know."""


class TemplateError(ModelError):
    """A chat template does not parse, breaks the sandbox or runs over its bounds."""


class ResourceError(CsaqError):
    """Memory, disk or time does not suffice; said before work begins wherever possible."""

    exit_code = 4
