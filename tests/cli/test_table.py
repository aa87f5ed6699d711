"""Plain tables and sizes."""

import pytest

from csaq_cli.table import one_line, render_table, size_text


def test_columns_line_up_and_numbers_stand_right():
    table = render_table(("name", "n"), [("a", "5"), ("longer", "1,234")])
    assert table.splitlines() == [
        "name    n",
        "──────  ─────",
        "a           5",
        "longer  1,234",
    ]


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 40, "3072.0 GiB"),
    ],
)
def test_sizes_are_binary_units(n_bytes, text):
    assert size_text(n_bytes) == text


def test_control_codes_of_a_file_never_reach_the_terminal():
    shown = one_line("a\x1b[2J\nb\x9b")
    assert shown.isprintable()
    assert "\\x1b" in shown
    assert one_line("größe 🦊") == "größe 🦊"
