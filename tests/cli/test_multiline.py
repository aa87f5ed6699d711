"""Messages of several lines between triple quotes."""

import pytest

from csaq_cli.chat.multiline import read_message


def reader(*lines):
    given, asked = iter(lines), []

    def read_line(more):
        asked.append(more)
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    return read_line, asked


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["  hello "], "hello"),
        (['"""one', "two", 'three"""'], "one\ntwo\nthree"),
        (['"""', "one", "", "two", '"""'], "one\n\ntwo"),
        (['"""on one line"""'], "on one line"),
        (['say """this"""'], 'say """this"""'),
    ],
)
def test_message_is_put_together(lines, message):
    assert read_message(reader(*lines)[0]) == message


def test_continuation_lines_are_asked_for_as_such():
    read_line, asked = reader('"""a', 'b"""')
    read_message(read_line)
    assert asked == [False, True]


def test_end_of_input_inside_quotes_is_the_end():
    with pytest.raises(EOFError):
        read_message(reader('"""a')[0])
