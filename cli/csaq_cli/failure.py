"""How a failure ends: exception → one line (and a hint) on stderr → exit code."""

import errno
import os
import sys
import traceback

import click

from csaq_runtime.errors import CsaqError

RUN_TIME, USAGE, RESOURCES, INTERRUPTED = 1, 2, 4, 130
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def report(error: BaseException) -> int:
    """Say what went wrong on stderr and return the exit code; SystemExit passes through."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, BrokenPipeError):
        return _leave_pipe()
    message, hint, code = describe(error)
    if os.environ.get("CSAQ_DEBUG"):
        traceback.print_exception(error)
    print(f"csaq: {_one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_one_line(hint)}", file=sys.stderr)
    return code


def describe(error: BaseException) -> tuple[str, str, int]:
    """Message, hint and exit code of `error`."""
    if isinstance(error, CsaqError):
        return str(error), error.hint, error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), _usage_hint(error), USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", "", INTERRUPTED
    if isinstance(error, MemoryError):
        return "out of memory", "try a smaller context (-c) or a smaller model", RESOURCES
    if isinstance(error, OSError):
        return _describe_os_error(error)
    name = type(error).__name__
    return f"unexpected {name}: {error}", "set CSAQ_DEBUG=1 for the traceback", RUN_TIME


def _describe_os_error(error: OSError) -> tuple[str, str, int]:
    place = f"{error.filename}: " if error.filename else ""
    code = RESOURCES if error.errno in DISK_FULL else RUN_TIME
    hint = "free some disk space" if code == RESOURCES else "set CSAQ_DEBUG=1 for the traceback"
    return f"{place}{error.strerror or error}", hint, code


def _usage_hint(error: click.ClickException) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"try '{error.ctx.command_path} --help'"
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _leave_pipe() -> int:
    """The reader went away (`csaq … | head`): nothing to say, and nothing left to flush to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return RUN_TIME
