"""Every kind of failure ends in one line and the documented exit code."""

import errno

import click
import pytest

from csaq_cli.failure import describe, report
from csaq_runtime.errors import CsaqError, GGUFError, ModelError, ResourceError, UsageError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CsaqError("x"), 1),
        (RuntimeError("x"), 1),
        (PermissionError(errno.EACCES, "denied", "x.gguf"), 1),
        (UsageError("x"), 2),
        (click.UsageError("x"), 2),
        (ModelError("x"), 3),
        (GGUFError("x.gguf", "magic", "wrong", 0), 3),
        (ResourceError("x"), 4),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "No space left on device", "x.partial"), 4),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 4),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
)
def test_each_error_has_its_exit_code(error, code, capsys):
    assert report(error) == code
    assert capsys.readouterr().err.startswith("csaq: ")


def test_message_is_one_line_and_the_hint_another(capsys):
    report(ModelError("bad\nfile\twith  breaks", hint="try\nanother"))
    assert capsys.readouterr().err == "csaq: bad file with breaks\nhint: try another\n"


def test_unexpected_error_points_to_the_traceback(capsys, monkeypatch):
    monkeypatch.delenv("CSAQ_DEBUG", raising=False)
    report(KeyError("token"))
    message, hint = capsys.readouterr().err.splitlines()
    assert message == "csaq: unexpected KeyError: 'token'"
    assert "CSAQ_DEBUG=1" in hint


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("CSAQ_DEBUG", "1")
    try:
        raise RuntimeError("inside")
    except RuntimeError as error:
        report(error)
    assert "Traceback" in capsys.readouterr().err


def test_os_error_names_the_file():
    message, _, _ = describe(FileNotFoundError(errno.ENOENT, "No such file", "a.gguf"))
    assert message == "a.gguf: No such file"


def test_system_exit_is_not_swallowed():
    with pytest.raises(SystemExit):
        report(SystemExit(5))
