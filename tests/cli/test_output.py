"""Footer on stderr, JSON on stdout, colors only where they are wanted."""

import io
import json

import pytest

from csaq_cli.completion import Completion
from csaq_cli.output import print_footer, print_json, wants_color
from csaq_runtime.speculate.decoder import Tally


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_footer_gives_both_rates_on_stderr(scripted, capsys):
    print_footer(Completion(scripted([]), [65], None, -1))
    captured = capsys.readouterr()
    assert captured.err == "[ Prompt: 20.0 t/s | Generation: 2.0 t/s | Context: 1/1000 ]\n"
    assert captured.out == ""


def test_footer_says_what_drafts_brought(scripted, capsys):
    engine = scripted([])
    engine.timings.draft = Tally(n_step=2, n_drafted=5, n_accepted=2, plain_seconds=3.0)
    print_footer(Completion(engine, [65], None, -1))
    assert "| draft 2/5, 2.00 tokens/step, 1.50x plain |" in capsys.readouterr().err


def test_json_is_one_line_with_text_and_figures(scripted, capsys):
    completion = Completion(scripted(["größe"]), [65], None, -1)
    print_json("".join(completion), completion)
    report = json.loads(capsys.readouterr().out)
    assert (report["text"], report["finish"]) == ("größe", "stop")
    assert (report["prompt_tokens"], report["generated_tokens"]) == (1, 5)
    assert (report["drafted_tokens"], report["tokens_per_step"], report["speedup"]) == (0, 1, None)


@pytest.mark.parametrize(
    ("choice", "stream", "no_color", "wanted"),
    [
        ("auto", Terminal(), "", True),
        ("auto", Terminal(), "1", False),
        ("auto", io.StringIO(), "", False),
        ("on", io.StringIO(), "1", True),
        ("off", Terminal(), "", False),
    ],
)
def test_color_follows_choice_terminal_and_no_color(choice, stream, no_color, wanted, monkeypatch):
    monkeypatch.setenv("NO_COLOR", no_color)
    assert wants_color(choice, stream) is wanted
