"""One prompt, one reply: engine and options → text on stdout, figures on stderr."""

import sys
from pathlib import Path

from csaq_cli.completion import Completion
from csaq_cli.loading import loading_line
from csaq_cli.output import print_footer, print_json, wants_color
from csaq_cli.run_options import RunOptions
from csaq_runtime.engine import Engine
from csaq_runtime.errors import UsageError
from csaq_runtime.pages import Pages
from csaq_runtime.prompt import chat_ids, conversation
from csaq_runtime.sample import Sampling


def open_engine(path: Path, options: RunOptions, pages: Pages) -> Engine:
    """Load `path` into `pages` as options say; raises GGUFError, ModelError, ResourceError."""
    progress = loading_line(options.quiet)
    try:
        return Engine.open(
            path,
            n_ctx=options.ctx_size,
            n_threads=options.threads,
            cache_type=options.cache_type,
            spec=options.spec,
            n_draft=options.spec_n_max,
            draft_model=options.draft_model,
            has_text=True,
            pages=pages,
            progress=progress,
        )
    finally:
        if progress is not None:
            progress(1, 1)


def sampling_of(options: RunOptions) -> Sampling:
    """The sampling settings of the command line."""
    return Sampling(
        temperature=options.temp,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repeat_penalty=options.repeat_penalty,
        repeat_last_n=options.repeat_last_n,
        seed=None if options.seed < 0 else options.seed,
    )


def prompt_ids(engine: Engine, prompt: str, options: RunOptions) -> list[int]:
    """Token ids of one chat turn, or of plain text where there is no template or none is wanted."""
    vocabulary = engine.vocabulary
    if vocabulary.chat_template and not options.no_conversation:
        return chat_ids(vocabulary, conversation(options.system_prompt, prompt))
    if options.system_prompt:
        raise UsageError("a system message needs a chat template, and none is used here")
    return vocabulary.encode(prompt)


def reply_once(engine: Engine, prompt: str, options: RunOptions) -> None:
    """Answer `prompt`: streamed, or as one JSON object with --json."""
    ids = prompt_ids(engine, prompt, options)
    completion = Completion(engine, ids, sampling_of(options), options.predict)
    if options.as_json:
        print_json("".join(completion), completion)
        return
    for piece in completion:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()
    if not options.quiet:
        print_footer(completion)


def chat_on_terminal(engine: Engine, options: RunOptions) -> None:
    """Chat until the user leaves; raises UsageError where the model has no chat template."""
    if not engine.vocabulary.chat_template or options.no_conversation:
        raise UsageError("there is nothing to continue", "give a prompt with -p or -f")
    if options.as_json:
        raise UsageError("--json answers one prompt", "give it with -p, -f or on standard input")
    from csaq_cli.chat.session import ChatSession
    from csaq_cli.chat.terminal import chat

    session = ChatSession(engine, sampling_of(options), options.predict, options.system_prompt)
    color = wants_color(options.color, sys.stdout)
    chat(session, color=color, quiet=options.quiet, single_turn=options.single_turn)
