"""`csaq run` as a process: one reply, standard input, JSON, and what it refuses."""

import json
import subprocess
import sys

import pytest

GREEDY = ("--temp", 0, "-n", 6, "-t", 1)


def test_prompt_gets_one_reply_on_stdout_and_figures_on_stderr(csaq, tiny_gguf):
    done = csaq("run", tiny_gguf, "-p", "hello", *GREEDY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")
    assert done.stderr.splitlines()[-1].startswith("[ Prompt: ")


def test_standard_input_file_and_flag_give_the_same(csaq, tiny_gguf, tmp_path):
    (tmp_path / "prompt.txt").write_text("hello\n")
    flag = csaq("run", "-m", tiny_gguf, "-p", "hello", *GREEDY, "-q")
    file = csaq("run", tiny_gguf, "-f", tmp_path / "prompt.txt", *GREEDY, "-q")
    stdin = csaq("run", tiny_gguf.parent, *GREEDY, "-q", stdin="hello\n")
    assert flag.stdout == file.stdout == stdin.stdout
    assert flag.stderr == file.stderr == stdin.stderr == ""


def test_json_is_one_object_with_the_same_text(csaq, tiny_gguf):
    plain = csaq("run", tiny_gguf, "-p", "hello", *GREEDY, "-q").stdout
    report = json.loads(csaq("run", tiny_gguf, "-p", "hello", *GREEDY, "--json").stdout)
    assert report["text"] + "\n" == plain
    assert report["generated_tokens"] <= 6
    assert report["finish"] in ("stop", "length")


def test_template_and_system_message_change_what_the_model_reads(csaq, tiny_gguf):
    def n_prompt(*more):
        done = csaq("run", tiny_gguf, "-p", "hi", *GREEDY, "--json", *more)
        return json.loads(done.stdout)["prompt_tokens"]

    assert n_prompt("-no-cnv") == 3  # BOS and two letters
    assert n_prompt() == len("<user>hi<assistant>") + 1
    assert n_prompt("-sys", "ok") == len("<system>ok<user>hi<assistant>") + 1


def test_system_message_without_a_template_is_refused_not_ignored(csaq, tiny_gguf):
    done = csaq("run", tiny_gguf, "-p", "hi", "-no-cnv", "-sys", "ok", *GREEDY)
    assert done.returncode == 2
    assert "chat template" in done.stderr


def test_seed_decides_the_reply(csaq, tiny_gguf):
    def reply(seed):
        return csaq("run", tiny_gguf, "-p", "x", "-n", 12, "-s", seed, "--temp", 2, "-q").stdout

    assert reply(3) == reply(3)
    assert len({reply(seed) for seed in (3, 4, 5)}) > 1


def test_prompt_that_does_not_fit_is_refused(csaq, tiny_gguf):
    done = csaq("run", tiny_gguf, "-p", "x" * 200, *GREEDY)
    assert done.returncode == 2
    assert "the context holds 128" in done.stderr.splitlines()[0]
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [(), ("-p", ""), ("-p", " "), ("-p", "x", "-f", __file__), ("-p", "x", "-m", "other.gguf")],
)
def test_no_prompt_and_two_of_a_kind_are_usage_errors(csaq, tiny_gguf, arguments):
    done = csaq("run", tiny_gguf, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) <= 2


def test_standard_input_that_is_no_text_is_refused(tiny_gguf):
    command = [sys.executable, "-m", "csaq_cli", "run", str(tiny_gguf)]
    done = subprocess.run(command, input=b"ab\xff", capture_output=True)
    assert done.returncode == 2
    assert b"not UTF-8 (byte 2)" in done.stderr


@pytest.mark.parametrize("n_bytes", [0, 10, 2000, 20_000, -1])
def test_truncated_file_is_one_line_and_exit_3(csaq, tiny_gguf, tmp_path, n_bytes):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:n_bytes])
    done = csaq("run", path, "-p", "x")
    assert done.returncode == 3
    assert done.stderr.startswith(f"csaq: {path}: ")
    assert len(done.stderr.splitlines()) <= 2


def test_no_torch_transformers_or_exporter_is_ever_imported(tiny_gguf):
    code = (
        "import sys\nfrom csaq_cli.main import cli\n"
        f"cli.main(['run', {str(tiny_gguf)!r}, '-p', 'x', '-n', '3'], standalone_mode=False)\n"
        "foreign = {'torch', 'transformers', 'csaq_export', 'gguf', 'rich'} & sys.modules.keys()\n"
        "assert not foreign, foreign\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
