"""Every command line of README.md and docs/*.md runs, in its block's order, in an empty folder.

Three tables say what is not as on the page: SUBSTITUTES (words that stand for something that needs
the network or a peer), SHORTER (options added so that tiny models and short texts do) and
ENVIRONMENT. Lines of other programs are in NOT_RUN with the reason; a line in no table fails.
"""

import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from csaq_cli.main import COMMANDS, cli
from csaq_runtime.formats import GGMLType
from csaq_runtime.kernels.dispatch import ACTIVATION_NAME
from tests.cli.console_blocks import PAGES, Block, Pipeline, console_blocks, parse
from tests.cli.stand_ins import StandIns

# Word of a page → what is run instead, and why.
SUBSTITUTES = {
    "~/llama.cpp/build/bin/llama-bench": "./llama-bench",  # a peer: a stand-in program answers
    "hf:Qwen/Qwen3-0.6B-GGUF:Q8_0": "model.gguf",  # the network; test_hub.py speaks to a hub
}
# Command → options appended to it: the last one counts.
CALIBRATION = ("--nsamples", "4", "--seqlen", "64")
EFFORT = ("--effort", "fast")
SHORTER = {
    "run": ("-n", "8"),  # random weights never end a reply
    "bench": ("-p", "8", "-n", "2", "-d", "0,8", "-r", "1"),
    "eval": ("-c", "32", "--chunks", "2"),
    "frontier": ("--presets", "Q8_0", "-c", "32", "--chunks", "2", *CALIBRATION),
    "calibrate": CALIBRATION,
    "draft": (*CALIBRATION, "--steps", "2"),
}
# Command → its environment. `csaq warmup` gets a cache of its own: it deletes what other versions
# left, which may be somebody's; of the kernels it then compiles one (ONE_MODULE) and not all.
ENVIRONMENT = {"warmup": {"CSAQ_CACHE_DIR": "cache"}}
ONE_MODULE = [ACTIVATION_NAME]
# Types that a size is made of: a third of them, as each is tried on every matrix.
FEW_TYPES = (GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.IQ4_XS, GGMLType.Q8_0)
# First words of lines that are not ours to run, and why.
NOT_RUN = {
    "pip": "installs from the network",
    "git": "clones from the network",
    "make": "`make demo` and `make test` are what runs this",
    "curl": "asks the server; tests/server does, with real clients",
    "python": "benchmarks of minutes",
    "llama-cli": "a peer; tests/parity asks llama.cpp",
}
# `csaq run` without a prompt wants a terminal; here it gets one turn on standard input.
TURN = "Hello\n"
SERVER_SECONDS = 60

BLOCKS = [block for page in PAGES for block in console_blocks(page)]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return StandIns(tmp_path_factory.mktemp("stand-ins"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.name)
def test_block_runs(block, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("csaq_runtime.warmup.all_modules", lambda: ONE_MODULE)
    monkeypatch.setattr("csaq_export.budget.curve.LADDER", FEW_TYPES)
    monkeypatch.chdir(tmp_path)
    for command in block.commands:
        run_line(command, stand_ins, tmp_path)


def test_every_command_is_shown_in_the_docs():
    shown = {words[1] for b in BLOCKS for c in b.commands for words in parse(c).programs
             if words[0] == "csaq"}  # fmt: skip
    assert shown == set(COMMANDS)


def test_no_table_holds_what_no_page_has():
    words = {w for b in BLOCKS for c in b.commands for words in parse(c).programs for w in words}
    assert words >= SUBSTITUTES.keys() | SHORTER.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_console_blocks_behind_a_prompt(page):
    shown = [c for block in console_blocks(page) for c in block.commands]
    lines = page.read_text().splitlines()
    commands = [line for line in lines if line.startswith(("$ ", "csaq ")) and "csaq:" not in line]
    assert len(commands) == len(shown)


def run_line(command: str, stand_ins: StandIns, folder: Path) -> None:
    pipeline = parse(command)
    first = pipeline.programs[0][0]
    if first in NOT_RUN:
        return
    assert first in ("csaq", "cat", "torchrun"), f"{command}: neither ours nor in NOT_RUN"
    stdin, output = TURN, ""
    for program in pipeline.programs:
        words = [SUBSTITUTES.get(word, word) for word in alone(program)]
        for word in words:
            stand_ins.provide(word, folder)
        words += added(words, stand_ins)
        output = stdin = run_program(globbed(words, folder), stdin, command)
    keep(output, pipeline, folder)


def alone(program: Sequence[str]) -> Sequence[str]:
    """`torchrun … -m csaq_cli …` without torchrun: one process stands for all of them."""
    if program[0] != "torchrun":
        return program
    return ["csaq", *program[program.index("csaq_cli") + 1 :]]


def run_program(words: Sequence[str], stdin: str, command: str) -> str:
    if words[0] == "cat":
        return "".join(Path(word).read_text() for word in words[1:])
    if words[1] == "serve":
        return serve(words[1:])
    environment = ENVIRONMENT.get(words[1])
    done = CliRunner(env=environment).invoke(cli, words[1:], input=stdin, prog_name="csaq")
    assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception!r}"
    assert done.stdout or "--work-dir" in words, f"{command}: printed nothing"
    return done.stdout


def added(words: Sequence[str], stand_ins: StandIns) -> list[str]:
    """Options that make the command short enough for a test."""
    name = words[1] if words[0] == "csaq" else ""
    options = [*SHORTER.get(name, ())]
    if name == "convert" and {"--calib", "--bpw", "--like", "--size", "--method"} & {*words}:
        options += [*CALIBRATION, *EFFORT]
    if "--calib" in words:
        # One calibration for all: the work folder's stages know model, text and options.
        home = stand_ins.home
        kept = ["--keep", f"{home}"] if name == "frontier" else ["--work-dir", f"{home / 'work'}"]
        options += kept
    return options


def globbed(words: Sequence[str], folder: Path) -> list[str]:
    matches = [
        sorted(str(p.relative_to(folder)) for p in folder.glob(w)) for w in words if "*" in w
    ]
    return [w for word in words for w in (matches.pop(0) if "*" in word else [word])]


def keep(output: str, pipeline: Pipeline, folder: Path) -> None:
    if pipeline.target is not None:
        path = folder / pipeline.target.replace("~", "home")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(output)


def serve(arguments: Sequence[str]) -> str:
    """Start the server on a free port, ask it how it is, end it as a service manager would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        sys.executable,
        "-m",
        "csaq_cli",
        *arguments,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        health = answer(f"http://127.0.0.1:{port}/health", server)
        server.send_signal(signal.SIGTERM)
        assert server.wait(SERVER_SECONDS) == 0, shlex.join(words)
    finally:
        server.kill()
    return health


def answer(url: str, server: "subprocess.Popen[bytes]") -> str:
    """What the server says once it listens."""
    deadline = time.monotonic() + SERVER_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url) as reply:
                return str(reply.read().decode())
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url}: no answer, exit code {server.poll()}")


def test_blocks_are_read_with_continued_lines_pipes_and_comments(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ a b \\\n  c | d > e  # f\nout\n```\n```sh\n$ no\n```\n")
    (block,) = console_blocks(page)
    assert block == Block("page.md", 1, ("a b   c | d > e  # f",))
    assert parse(block.commands[0]) == Pipeline((("a", "b", "c"), ("d",)), "e")
