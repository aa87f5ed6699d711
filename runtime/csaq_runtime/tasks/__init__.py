"""Tasks with known answers: multiple-choice questions, maths and SQL.

read    a file → questions          answers   what a model wrote → right or wrong
score   a model → its share of right answers
"""

from csaq_runtime.tasks.question import Kind, Question, Task
from csaq_runtime.tasks.read import read_task
from csaq_runtime.tasks.score import Score, score

__all__ = ["Kind", "Question", "Score", "Task", "read_task", "score"]
