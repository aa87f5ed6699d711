"""A completion streams pieces and says why it ended."""

import pytest

from csaq_cli.completion import Completion
from csaq_runtime.errors import UsageError


def complete(engine, n_predict=-1):
    completion = Completion(engine, [65], None, n_predict)
    return "".join(completion), completion


def test_reply_that_ends_by_itself_finishes_with_stop(scripted):
    text, completion = complete(scripted(["hello"]))
    assert (text, completion.finish, completion.n_generated) == ("hello", "stop", 5)


def test_limit_finishes_with_length(scripted):
    text, completion = complete(scripted(["hello"]), 3)
    assert (text, completion.finish) == ("hel", "length")


def test_context_is_a_limit_too(scripted):
    text, completion = complete(scripted(["hello"], n_ctx=4))
    assert (text, completion.finish) == ("hel", "length")


def test_unfinished_reply_counts_as_interrupted(scripted):
    completion = Completion(scripted(["hello"]), [65], None, -1)
    assert next(iter(completion)) == "h"
    assert completion.finish == "interrupted"


def test_prompt_that_does_not_fit_is_refused_before_anything_runs(scripted):
    engine = scripted(["hello"], n_ctx=1)
    with pytest.raises(UsageError, match="context"):
        Completion(engine, [65], None, -1)
    assert engine.prompts == []
