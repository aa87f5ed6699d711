"""What a task consists of."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """How a task is answered, and by what an answer is judged."""

    CHOICE = "multiple choice"
    MATHS = "maths"
    SQL = "text to SQL"


@dataclass(frozen=True)
class Question:
    """`prompt` ends where `answer` begins (with a space); `choices` hold it where there are any."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Question and answer."""
        return self.prompt + self.answer


@dataclass(frozen=True)
class Task:
    """Questions of one kind; `name` is the file's, `header` precedes them all."""

    name: str
    kind: Kind
    questions: tuple[Question, ...]
    header: str = ""

    def with_shots(self, n: int) -> "Task":
        """The first `n` questions, answered, before each of the others."""
        shown = "".join(f"{question.text}\n\n" for question in self.questions[:n])
        return Task(self.name, self.kind, self.questions[n:], self.header + shown)

    def first(self, n: int) -> "Task":
        """At most `n` questions; all for 0."""
        return Task(self.name, self.kind, self.questions[: n or None], self.header)
