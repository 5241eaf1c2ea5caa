# -*- test-case-name: tests.dispatch.test_description -*-
"""
L{Description}: what a dispatcher and its process do with each signal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

from txsignalfd._native.names import signalName
from txsignalfd._proc.report import toText
from txsignalfd._proc.status import ProcessSignals, ProcUnavailable, ofProcess


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


class BackendDescription(NamedTuple):
    """
    What the dispatcher has its signals from.

    @ivar name: C{signalfd}, C{handler}, or C{memory} in a test.
    @ivar withoutSiginfo: How many signals found no room, and were told without their
        siginfo, together with others of their number.  Only C{handler} has such.
    """

    name: str
    withoutSiginfo: int

    def __str__(self) -> str:
        withoutSiginfo = (
            f", {self.withoutSiginfo} without a siginfo"
            if self.name == "handler"
            else ""
        )
        return f"received by the backend {self.name}{withoutSiginfo}"


class Description(NamedTuple):
    """
    What C{SignalDispatcher.describe} gives; C{str} makes a text of it.

    @ivar watched: The signals that are watched, sorted by number.
    @ivar process: What the process does with each signal, and each of its
        threads; C{None} where there is no proc(5).
    @ivar backend: What the signals are received from.
    """

    watched: tuple[WatchedSignal, ...]
    process: ProcessSignals | None
    backend: BackendDescription

    def __str__(self) -> str:
        process = [] if self.process is None else [toText(self.process)]
        return "\n".join([*map(str, self.watched), *process, str(self.backend)])


def describe(
    watched: tuple[WatchedSignal, ...], backend: BackendDescription
) -> Description:
    """
    Put them beside what the process does, where that can be told.
    """
    process = None
    with suppress(ProcUnavailable):
        process = ofProcess()
    return Description(watched, process, backend)
