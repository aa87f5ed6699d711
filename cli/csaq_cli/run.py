"""`csaq run`: a GGUF and a prompt (or a terminal) → streamed text.

The flags and their defaults are llama.cpp's. Never imports torch, transformers or csaq_export.
"""

import sys
from pathlib import Path

import click

from csaq_cli.early import early_pages
from csaq_cli.locate import find_gguf
from csaq_cli.run_options import RunOptions, run_options
from csaq_runtime.errors import UsageError

EPILOG = """\b
Examples:
  csaq run model.gguf                        chat on a terminal
  csaq run model.gguf -p "Once upon a time"  one reply
  cat question.txt | csaq run model.gguf     one reply to standard input
  csaq run hf:Qwen/Qwen3-0.6B-GGUF:Q8_0      a model of the Hugging Face hub
"""


@click.command(epilog=EPILOG)
@run_options
def run(options: RunOptions) -> None:
    """Chat with FILE, or complete one prompt.

    FILE is a GGUF, a folder with exactly one, or hf:org/repo[:TAG]. Without a prompt, on a
    terminal, a model with a chat template chats; anything else is answered once.
    """
    path = find_gguf(_chosen(options))
    prompt = _given_prompt(options)
    with early_pages(path.stat().st_size) as pages:
        from csaq_cli.reply import chat_on_terminal, open_engine, reply_once

        opened = open_engine(path, options, pages)
    with opened as engine:
        if prompt is not None:
            reply_once(engine, prompt, options)
        else:
            chat_on_terminal(engine, options)


def _chosen(options: RunOptions) -> Path:
    if options.file and options.model:
        raise UsageError("FILE and --model are both given, one is enough")
    chosen = options.file or options.model
    if chosen is None:
        raise UsageError("which model? give the path of a GGUF", "csaq run FILE")
    return chosen


def _given_prompt(options: RunOptions) -> str | None:
    """The prompt of -p, -f or standard input; None on a terminal."""
    if options.prompt is not None and options.prompt_file is not None:
        raise UsageError("--prompt and --file are both given, one is enough")
    prompt = _read_prompt(options)
    if prompt is not None and not prompt.strip():
        raise UsageError("the prompt is empty", "give one with -p, -f or on standard input")
    return prompt


def _read_prompt(options: RunOptions) -> str | None:
    if options.prompt is not None:
        return options.prompt
    if options.prompt_file is not None:
        return _decoded(options.prompt_file.read_bytes(), str(options.prompt_file))
    return None if sys.stdin.isatty() else _decoded(sys.stdin.buffer.read(), "standard input")


def _decoded(data: bytes, origin: str) -> str:
    try:
        return data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{origin}: not UTF-8 (byte {error.start})") from error
