"""The `csaq` group: quick, lazy, and with the exit codes it documents."""

import resource
import subprocess
import sys

import pytest

from csaq_cli.main import COMMANDS


def seconds_of_help() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "csaq_cli", "--help"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_takes_less_than_150_ms():
    # Processor time, best of some: how long a busy machine makes a process wait is not its doing.
    assert min(seconds_of_help() for _ in range(8)) < 0.150


def test_help_imports_click_and_no_library_beside_it():
    code = (
        "import sys, contextlib, io\n"
        "from csaq_cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'numba', 'torch', 'transformers', 'rich', 'jinja2', 'tokenizers',"
        " 'prompt_toolkit', 'csaq_export', 'csaq_cli.run', 'csaq_cli.convert'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command(csaq, arguments):
    done = csaq(*arguments)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_begins_with_its_usage(csaq, name):
    done = csaq(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: csaq {name}")


@pytest.mark.parametrize(
    "arguments",
    [("conver",), ("run", "--no-such-option"), ("run",), ("run", "missing.gguf", "-p", "x"),
     ("info",), ("info", "missing.gguf"), ("run", "x", "--top-p", "1.5"),
     ("run", "x", "-n", "many")],
)  # fmt: skip
def test_usage_errors_are_one_line_and_exit_2(csaq, arguments):
    done = csaq(*arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert not done.stdout
    assert lines[0].startswith("csaq: ")
    assert all(line.startswith("hint: ") for line in lines[1:])


def test_options_come_from_the_environment(csaq):
    done = csaq("run", "missing.gguf", "-p", "x", env={"CSAQ_RUN_TOP_K": "nonsense"})
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_version_is_the_distribution_s(csaq):
    from importlib.metadata import version

    assert version("csaq-export") in csaq("--version").stdout
