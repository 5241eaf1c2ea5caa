# -*- test-case-name: tests.test_description -*-
"""
L{Description}: what a dispatcher and its process do with each signal.
"""

from __future__ import annotations

from typing import NamedTuple

from txsignalfd.names import signalName
from txsignalfd.procreport import toText
from txsignalfd.procstatus import ProcessSignals


class HandlerDescription(NamedTuple):
    """
    A handler of a signal, and what it has done.

    @ivar handler: What is called, as C{repr} has it.
    @ivar overlap: The name of its C{Overlap}.
    @ivar handled: How often it was called.
    @ivar running: How many of its Deferreds have not fired.
    @ivar waiting: How many signals are kept for it till then.
    @ivar dropped: How many signals were dropped.
    """

    handler: str
    overlap: str
    handled: int
    running: int
    waiting: int
    dropped: int

    def __str__(self) -> str:
        return (
            f"{self.handler} {self.overlap}: {self.handled} handled,"
            f" {self.running} running, {self.waiting} waiting, {self.dropped} dropped"
        )


class WatchedSignal(NamedTuple):
    """
    A signal that is watched, and what has become of it.

    @ivar signo: Its number.
    @ivar handlers: Its handlers, in the order of their calls.
    @ivar isHeld: Whether it is held now.
    @ivar kept: How many are kept for the end of the hold.
    @ivar unhandled: How many came while it had no handler, since it had one.
    """

    signo: int
    handlers: tuple[HandlerDescription, ...]
    isHeld: bool
    kept: int
    unhandled: int

    def __str__(self) -> str:
        what = []
        if self.isHeld:
            what.append(f"held, {self.kept} kept")
        if not self.handlers:
            what.append(f"nothing handles it, {self.unhandled} came")
        heading = ": ".join(filter(None, [signalName(self.signo), "; ".join(what)]))
        return "\n".join([heading, *(f"  {handler}" for handler in self.handlers)])


class Description(NamedTuple):
    """
    What C{SignalDispatcher.describe} gives; C{str} makes a text of it.

    @ivar watched: The signals that are watched, sorted by number.
    @ivar process: What the process does with each signal, and each of its
        threads.
    """

    watched: tuple[WatchedSignal, ...]
    process: ProcessSignals

    def __str__(self) -> str:
        return "\n".join([*map(str, self.watched), toText(self.process)])
