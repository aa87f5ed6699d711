"""`csaq completion`: scripts come out, and bash completes with its own."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from csaq_cli.main import COMMANDS, cli

# What bash does when Tab is pressed after `words`: calls the function and prints the answers.
PRESS_TAB = """
PATH="$PWD:$PATH"
source <(csaq completion bash)
COMP_WORDS=({words}); COMP_CWORD={last}
compopt() {{ echo "option $2"; }}
_csaq_completion csaq
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def press_tab(tmp_path):
    program = tmp_path / "csaq"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m csaq_cli "$@"\n')
    program.chmod(0o755)

    def press(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        script = PRESS_TAB.format(words=quoted, last=len(words) - 1)
        done = subprocess.run(
            ["bash", "--norc", "-c", script], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    return press


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_asks_csaq(shell):
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="csaq")
    assert done.exit_code == 0
    assert f"_CSAQ_COMPLETE={shell}_complete" in done.stdout


def test_bash_completes_commands_options_types_and_files(press_tab):
    assert press_tab("csaq", "co") == ["convert", "completion"]
    assert press_tab("csaq", "run", "--top") == ["--top-k", "--top-p"]
    assert press_tab("csaq", "convert", "./my-model", "--type", "q4_k_") == ["Q4_K_S", "Q4_K_M"]
    assert "option default" in press_tab("csaq", "convert", "./my")


def test_names_are_completed_without_importing_a_command():
    code = (
        "import sys\n"
        "from csaq_cli.main import cli\n"
        "import click\n"
        "found = cli.shell_complete(click.Context(cli), '')\n"
        "print(*(item.value for item in found))\n"
        "assert not {'csaq_cli.run', 'csaq_cli.convert', 'numpy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == list(COMMANDS)


def test_other_shells_are_a_usage_error(csaq):
    done = csaq("completion", "tcsh")
    assert done.returncode == 2
    assert "bash" in done.stderr
