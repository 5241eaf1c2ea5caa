# -*- test-case-name: tests.dispatch.test_description -*-
"""
L{Description}: the handlers of each signal, and its effect on the process.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from txsignalfd._native.names import signalName
from txsignalfd._proc.report import toText
from txsignalfd._proc.status import ProcessSignals, ProcUnavailable, ofProcess
from txsignalfd.siginfo import SigInfo


class HandlerDescription(NamedTuple):
    """
    A handler of a signal, and what it has done.

    @ivar handler: The name of the function that is called.
    @ivar overlap: The name of its C{Overlap}.
    @ivar handled: How many times it was called.
    @ivar running: How many of these calls have not finished.
    @ivar waiting: How many signals are queued for it.
    @ivar dropped: How many signals were dropped, by C{Overlap.DROP} or at a limit.
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
    A watched signal and its handlers.

    @ivar signo: Its number.
    @ivar handlers: Its handlers, in the order of their calls.
    @ivar isHeld: Whether it is held now.
    @ivar deferred: How many are deferred until the end of the hold.
    @ivar unhandled: How many were received since it has had no handler.
    """

    signo: int
    handlers: tuple[HandlerDescription, ...]
    isHeld: bool
    deferred: int
    unhandled: int

    def __str__(self) -> str:
        what = []
        if self.isHeld:
            what.append(f"held, {self.deferred} deferred")
        if not self.handlers:
            what.append(f"no handler, {self.unhandled} received")
        heading = ": ".join(filter(None, [signalName(self.signo), "; ".join(what)]))
        return "\n".join([heading, *(f"  {handler}" for handler in self.handlers)])


class BackendDescription(NamedTuple):
    """
    The source of the dispatcher's signals.

    @ivar name: C{signalfd}, C{handler}, or C{memory} in a test.
    @ivar withoutSiginfo: How many signals lost their siginfo and were merged with
        others of their number, because there was no space left for them.
    """

    name: str
    withoutSiginfo: int

    def __str__(self) -> str:
        lost = ""
        if self.name == "handler" or self.withoutSiginfo:
            lost = f", {self.withoutSiginfo} without a siginfo"
        return f"received by the backend {self.name}{lost}"


class Description(NamedTuple):
    """
    The result of C{SignalDispatcher.describe}; C{str} returns it as text.

    @ivar watched: The watched signals, sorted by number.
    @ivar process: What the process and each of its threads do with each signal;
        C{None} on a system without proc(5).
    @ivar backend: The source of the signals.
    """

    watched: tuple[WatchedSignal, ...]
    process: ProcessSignals | None
    backend: BackendDescription

    def __str__(self) -> str:
        process = [] if self.process is None else [toText(self.process)]
        return "\n".join([*map(str, self.watched), *process, str(self.backend)])


#: How many signals a log message shows.
_SHOWN: Final = 10


def someOf(infos: Sequence[SigInfo]) -> str:
    """
    Return the first signals as text, and the number of the others.
    """
    shown = [str(info) for info in infos[:_SHOWN]]
    if len(infos) > _SHOWN:
        shown.append(f"and {len(infos) - _SHOWN} more")
    return ", ".join(shown)


def describe(
    watched: tuple[WatchedSignal, ...], backend: BackendDescription
) -> Description:
    """
    Add what the process does, if the system can tell.
    """
    process = None
    with suppress(ProcUnavailable):
        process = ofProcess()
    return Description(watched, process, backend)
