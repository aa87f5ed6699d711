"""What a model wrote and what was expected → whether they say the same."""

import re

from csaq_runtime.tasks.question import Kind

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")
# A string, a word or number, an operator of two characters, or any other single one.
_SQL_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|[\w.]+|<=|>=|<>|!=|\S")
# Where a model has gone on to write the next question itself.
ENDS = ("\nQuestion:", "\n\n")


def is_right(kind: Kind, written: str, expected: str) -> bool:
    """Exact match of the final number (maths), or of the query's tokens (SQL)."""
    answer = _until_end(written)
    if kind is Kind.MATHS:
        found = final_number(answer)
        return found is not None and found == final_number(expected)
    return sql_tokens(answer) == sql_tokens(expected)


def is_ended(written: str) -> bool:
    """Whether the answer is over, whatever may follow."""
    return any(end in written.lstrip() for end in ENDS)


def _until_end(written: str) -> str:
    text = written.lstrip()
    for end in ENDS:
        text = text.partition(end)[0]
    return text


def final_number(text: str) -> float | None:
    """The number behind `####`, else the last one; None where there is none."""
    _, mark, after = text.partition("####")
    numbers = _NUMBER.findall(after if mark else text)
    if not numbers:
        return None
    return float(numbers[0 if mark else -1].replace(",", "").replace("$", ""))


def sql_tokens(query: str) -> list[str]:
    """Tokens without regard to case, spacing, kind of quotes and a closing semicolon.

    Text in quotes keeps its case.
    """
    found = _SQL_TOKEN.findall(query.strip().rstrip(";"))
    return [f"'{t[1:-1]}'" if t[0] in "'\"" and len(t) > 1 else t.lower() for t in found]
