# -*- test-case-name: tests.dispatch.test_dispatcher -*-
"""
L{HandlerTable}: which handlers a signal goes to, and when.

Pure Python objects: no descriptor and no reactor.  What it is given it hands
out at once, each signal to every handler of its number, in the order in which
they were added, and only then the next.  Three things keep a signal here, each
in order: a handler that is still busy (L{Overlap}), a hold, and a handler on
the stack that has had more signals read meanwhile, as by giving some back.

A handler may do what it likes with the table.  Its entries are tuples that
are replaced, never changed: a handler that is added while a signal is handed
out gets the next one, and one that is removed gets no more.

What is handed out is an iterator: whoever has more to hand out meanwhile takes
from it what is left, and puts the two in order (L{HandlerTable._queue}).  Only
that is rare, and pays for it.

Rejected: to keep held signals back in the kernel, by its mask.  It gives what
is pending in the order of the signals' numbers, and one for several of a
standard signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.description import WatchedSignal
from txsignalfd._dispatch.registration import (
    Handler,
    Overlap,
    Registration,
    Run,
    currentRun,
)
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")


class HandlerTable:
    """
    Who wants which signal.

    @ivar runs: Calls of handlers whose Deferred has not fired.
    @ivar calling: The registration whose handler is on the stack.
    @ivar receiving: Whether signals are being handed out.
    """

    def __init__(self, settled: Callable[[], None]) -> None:
        """
        @param settled: Called whenever a run has ended, and after L{closing}
            also whenever what was received has been handed out.
        """
        self._settled = settled
        self._entries: dict[int, tuple[Registration, ...]] = {}
        self._held: dict[int, int] = {}
        self._kept: list[SigInfo] = []
        self._queue: list[SigInfo] = []
        self._batch: Iterator[SigInfo] = iter([])
        self._unhandled: dict[int, int] = {}
        self.receiving = False
        self._isClosing = False
        self._closedBy: tuple[Registration, int] | None = None
        self.runs: set[Run] = set()
        self.calling: Registration | None = None

    def add(self, signo: int, handler: Handler, overlap: Overlap) -> Registration:
        """
        Add a handler, behind the others of its signal.
        """
        registration = Registration(self, signo, handler, overlap)
        self._entries[signo] = (*self.handlersOf(signo), registration)
        self._unhandled.pop(signo, None)
        return registration

    def forget(self, registration: Registration) -> None:
        """
        Take a handler out; for L{Registration.remove}.
        """
        others = [
            each
            for each in self._entries.pop(registration.signal)
            if each is not registration
        ]
        if others:
            self._entries[registration.signal] = tuple(others)

    def handlersOf(self, signo: int) -> tuple[Registration, ...]:
        """
        The handlers of a signal, in the order of their calls.
        """
        return self._entries.get(signo, ())

    def receive(self, infos: list[SigInfo]) -> None:
        """
        Hand out signals.
        """
        if self.receiving or self._queue:
            # A handler that calls this leaves the loop of _handOut nothing:
            # what was left of the batch goes before what has come now.
            self._queue.extend(self._batch)
            self._queue.extend(infos)
            if self.receiving:
                return
            infos, self._queue = self._queue, []
        self.receiving = True
        outer = self.calling
        try:
            while infos:
                self._batch = iter(infos)
                self._handOut(self._batch)
                infos, self._queue = self._queue, []
        except BaseException:
            self._queue[:0] = self._batch
            raise
        finally:
            self.calling = outer
            self.receiving = False
        if self._isClosing:
            self._settled()

    def _handOut(self, infos: Iterator[SigInfo]) -> None:
        # Once for each signal: benchmarks/README.rst has what each line costs.
        entries, held = self._entries, self._held
        for info in infos:
            signo = info._signo  # the property costs five times that
            if held and signo in held:
                self._kept.append(info)
                continue
            try:
                registrations = entries[signo]
            except KeyError:
                self._receiveUnhandled(info)
                continue
            for registration in registrations:
                if not registration.ready:
                    registration.receive(info)
                    continue
                # What Registration.call does, without the cost of calling it.
                registration.handled += 1
                self.calling = registration
                handler = registration.handler
                try:
                    result = handler(info)
                except BaseException:
                    registration.logFailure(info, Failure())
                else:
                    if result is not None:
                        registration.follow(info, result)

    def _receiveUnhandled(self, info: SigInfo) -> None:
        count = self._unhandled[info.signo] = self._unhandled.get(info.signo, 0) + 1
        if count == 1:
            _log.warn(
                "{info}: {name} is watched, and nothing handles it"
                " (further ones are counted, and not logged)",
                info=info,
                name=info.name,
            )

    def isHeld(self, signo: int) -> bool:
        """
        Whether L{hold} keeps this signal back now.
        """
        return signo in self._held

    @property
    def isHolding(self) -> bool:
        """
        Whether anything is held.
        """
        return bool(self._held)

    def abandon(self) -> None:
        """
        Keep nothing any more: the reactor has stopped.
        """
        kept, self._kept = self._kept, []
        if kept:
            _log.warn(
                "the reactor has stopped in a hold, and these are not handled: {kept}",
                kept=", ".join(map(str, kept)),
            )

    @contextmanager
    def hold(self, signals: Iterable[int]) -> Iterator[None]:
        """
        Keep these signals until the end of the C{with} statement.
        """
        signals = list(signals)
        for signo in signals:
            self._held[signo] = self._held.get(signo, 0) + 1
        try:
            yield
        finally:
            for signo in signals:
                self._held[signo] -= 1
                if not self._held[signo]:
                    del self._held[signo]
            self._release(signals)

    def _release(self, signals: list[int]) -> None:
        # What a busy handler had kept from before the hold comes first.
        for signo in signals:
            for registration in self.handlersOf(signo):
                registration.advance()
        # What is held still is kept again, in its order.
        kept, self._kept = self._kept, []
        self._queue = [*kept, *self._batch, *self._queue]
        self.receive([])

    def describe(self, signo: int) -> WatchedSignal:
        """
        What has become of a signal.
        """
        return WatchedSignal(
            signo=signo,
            handlers=tuple(each.describe() for each in self.handlersOf(signo)),
            isHeld=self.isHeld(signo),
            kept=sum(info.signo == signo for info in self._kept),
            unhandled=self._unhandled.get(signo, 0),
        )

    def isIdle(self) -> bool:
        """
        Whether no handler is busy, but for one that has closed the dispatcher,
        and may wait for that.
        """
        if not all(run.closes for run in self.runs):
            return False
        return not any(
            registration.isBusy()
            for registrations in self._entries.values()
            for registration in registrations
        )

    def closing(self) -> None:
        """
        The dispatcher is to be closed: note which handler does it, if one
        does, and tell from now on what has been handed out.
        """
        self._isClosing = True
        run = currentRun.get()
        if run in self.runs:
            run.closes = True
        elif self.calling is not None:
            self._closedBy = self.calling, self.calling.handled

    def isClosedBy(self, registration: Registration) -> bool:
        """
        Whether the last call of this handler has closed the dispatcher.
        """
        return self._closedBy == (registration, registration.handled)

    def runEnded(self) -> None:
        """
        A run is over; for L{Registration}.
        """
        self._settled()
