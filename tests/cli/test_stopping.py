"""Ctrl-C during a reply: the first sets a flag, the second leaves."""

import signal

import pytest
from csaq_cli.chat.stopping import stop_on_interrupt


def test_first_interrupt_only_sets_the_flag():
    with stop_on_interrupt() as flag:
        signal.raise_signal(signal.SIGINT)
        assert flag.stopped


def test_second_interrupt_leaves():
    with stop_on_interrupt(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_handler_of_before_is_back_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
