"""Signals in any number and at any moment must not make a process wait for itself."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from seg_perception.cli._command import stop_on_signals
from seg_perception.core.stopping import InterruptBetweenSteps, StopEvent, ending_signals

STORM = """
import os, signal, subprocess, sys
from seg_perception.core.stopping import StopEvent
stop = StopEvent()
signal.signal(signal.SIGUSR1, lambda *_: stop.ask())
send = f"import os, signal\\nfor _ in range(30_000): os.kill({os.getpid()}, signal.SIGUSR1)"
sender = subprocess.Popen([sys.executable, "-c", send])
while sender.poll() is None:
    stop.wait(0.01)
    stop.set()
assert stop.is_set()
"""


def test_a_storm_of_signals_holds_nobody() -> None:
    """With `threading.Event` this never ended."""
    subprocess.run([sys.executable, "-c", STORM], check=True, timeout=120)


def test_it_is_an_event() -> None:
    stop = StopEvent()
    assert not stop.wait(0.0)
    assert not stop.wait(0.01)
    threading.Timer(0.01, stop.set).start()
    assert stop.wait()
    asked = StopEvent()
    asked.ask()
    assert asked.is_set()
    assert asked.wait(0.0)


def test_a_terminal_that_is_gone_ends_in_order_but_not_under_nohup() -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # shell and kernel send one each: the second is no impatience
        assert stop.is_set()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ending_signals() == (signal.SIGINT, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_works_is_asked_to_end_and_the_second_signal_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with InterruptBetweenSteps() as ending:
        with pytest.raises(KeyboardInterrupt), ending.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert not ending.asked
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
            assert ending.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
