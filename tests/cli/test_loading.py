"""The loading line is for terminals, and leaves no trace."""

import io

import pytest

from csaq_cli.loading import CLEAR_LINE, loading_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("quiet", "stream"), [(True, Terminal()), (False, io.StringIO())])
def test_nothing_is_shown_where_nobody_watches(quiet, stream, monkeypatch):
    monkeypatch.setattr("sys.stderr", stream)
    assert loading_line(quiet) is None
    assert stream.getvalue() == ""


def test_line_counts_up_and_is_cleared_at_the_end(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    show = loading_line(quiet=False)
    show(1, 4)
    show(4, 4)
    assert "loading 25 %" in stream.getvalue()
    assert stream.getvalue().endswith(CLEAR_LINE)
