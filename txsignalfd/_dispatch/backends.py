# -*- test-case-name: tests.dispatch.test_dispatcher -*-
"""
L{Backend}: where a dispatcher has its signals from.  L{ReactorBackend} is a
descriptor in its reactor, as long as there is anything to watch.

There are two, by name: C{signalfd}, and where the system has no signalfd(2) or
refuses it, C{handler}.

Which backend a dispatcher has its signals from: C{signalfd}, or where the system
has no signalfd(2) or refuses it, C{handler}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.description import BackendDescription
from txsignalfd._kernel.descriptor import SignalDescriptor
from txsignalfd._kernel.pipe import SignalPipe
from txsignalfd._kernel.spawn import cleanSpawnProcess
from txsignalfd.lowlevel import SFD_CLOEXEC, SignalfdUnavailable, signalfd
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")

SIGNALFD: Final = "signalfd"
HANDLER: Final = "handler"

#: The environment's variable that names one where the program does not.
VARIABLE: Final = "TXSIGNALFD_BACKEND"


def checkBackend(name: str | None) -> str | None:
    """
    The backend that the program has named, or the environment.

    @return: C{None} for the best there is.
    @raise ValueError: For an unknown one.
    """
    where = "backend"
    if name is None:
        name = os.environ.get(VARIABLE) or None
        where = VARIABLE
    if name in (None, SIGNALFD, HANDLER):
        return name
    raise ValueError(
        f"{where} {name!r} is unknown: there are {SIGNALFD!r} and {HANDLER!r}"
    )


def bestBackend() -> str:
    """
    The name of the best backend that this system offers now.

    @raise OSError: When a descriptor cannot be had, for another reason.
    """
    try:
        os.close(signalfd(-1, [], SFD_CLOEXEC))
    except SignalfdUnavailable:
        return HANDLER
    return SIGNALFD


class Backend(Protocol):
    """
    What a dispatcher needs of the system.
    """

    def describe(self) -> BackendDescription:
        """
        What it is.
        """

    @property
    def signals(self) -> frozenset[int]:
        """
        What is watched.
        """

    def checkProcess(self) -> None:
        """
        @raise WatchedByParent: In a child that was forked after a signal was
            watched.
        """

    def watch(self, signals: Collection[int]) -> None:
        """
        Watch these signals too, all or none.
        """

    def unwatch(self, signals: Collection[int]) -> None:
        """
        Give these signals back, after what is pending has been received.
        """

    def stop(self) -> None:
        """
        Receive what is pending, and then no more.
        """

    def close(self) -> None:
        """
        Give everything back; L{stop} first.

        @raise OSError: When not everything could be given back.
        """


def atShutdown(
    reactor: Any, phase: str, function: Callable[[], object]
) -> Callable[[], None]:
    """
    Call a function when the reactor stops, if it is one that does:
    C{twisted.internet.task.Clock} is none.

    @param phase: See C{IReactorCore.addSystemEventTrigger}.
    @return: What takes that back.
    """
    if not hasattr(reactor, "addSystemEventTrigger"):
        return lambda: None
    wanted = [function]
    trigger = reactor.addSystemEventTrigger(
        phase, "shutdown", lambda: wanted and wanted.pop()()
    )

    def forget() -> None:
        if wanted:
            wanted.clear()
            # Twisted's MemoryReactor can only add triggers.  Nothing is lost by
            # one that stays: it has nothing to call any more.
            with suppress(NotImplementedError):
                reactor.removeSystemEventTrigger(trigger)

    return forget


_DESCRIPTORS: Final[dict[str, type[SignalDescriptor]]] = {
    SIGNALFD: SignalDescriptor,
    HANDLER: SignalPipe,
}


class ReactorBackend:
    """
    Receives signals in the turns of a reactor.  What is watched is taken from
    the system, and while nothing is, nothing is taken.
    """

    def __init__(
        self,
        name: str | None,
        reactor: Any,
        receive: Callable[[list[SigInfo]], object],
        lost: Callable[[Failure], object],
    ) -> None:
        """
        @param name: One that there is, or C{None} for the best there is when
            the first signal is watched.
        @param reactor: Any reactor with C{addReader}.
        @param receive: Called with the signals of each read.
        @param lost: Called with the reason when the reactor has dropped the
            descriptor, and all was given back.
        """
        self._name = name
        self._reactor = reactor
        self._receive = receive
        self._lost = lost
        self._descriptor: SignalDescriptor | None = None
        self._withoutSiginfo = 0
        self._startTrigger: Any = None
        self._leaveSpawnProcess: Callable[[], None]

    def describe(self) -> BackendDescription:
        """
        What it is, or would be now.
        """
        descriptor = self._descriptor
        withoutSiginfo = self._withoutSiginfo + (
            0 if descriptor is None else descriptor.withoutSiginfo
        )
        return BackendDescription(self._name or bestBackend(), withoutSiginfo)

    @property
    def signals(self) -> frozenset[int]:
        """
        What is watched.
        """
        descriptor = self._descriptor
        return frozenset() if descriptor is None else descriptor.signals

    def checkProcess(self) -> None:
        """
        @raise WatchedByParent: In a child that was forked after a signal was
            watched.
        """
        if self._descriptor is not None:
            self._descriptor.checkProcess()

    def watch(self, signals: Collection[int]) -> None:
        """
        Watch these signals too, all or none.
        """
        if self._descriptor is not None:
            self._descriptor.watch(signals)
            # Nothing, unless somebody has taken all readers from the reactor,
            # as trial does with one that a test has left unclean.
            self._reactor.addReader(self._descriptor)
        elif signals:
            self._open(signals)

    def _open(self, signals: Collection[int]) -> None:
        if self._name is None:
            self._name = bestBackend()
        descriptor = _DESCRIPTORS[self._name](
            signals, self._receive, self._descriptorLost, self._wake
        )
        try:
            self._reactor.addReader(descriptor)
        except BaseException:
            descriptor.close()
            raise
        self._descriptor = descriptor
        self._leaveSpawnProcess = cleanSpawnProcess(self._reactor)
        # The reactor may start in another thread than this, and Twisted
        # installs handlers of its own when it does.
        self._startTrigger = self._reactor.callWhenRunning(
            self._claimForThread, descriptor
        )

    def _wake(self) -> None:
        self._reactor.callFromThread(self._receiveDeferred)

    def _receiveDeferred(self) -> None:
        if self._descriptor is not None:
            self._descriptor.receiveDeferred()

    def _claimForThread(self, descriptor: SignalDescriptor) -> None:
        self._startTrigger = None
        descriptor.claimForThread()

    def unwatch(self, signals: Collection[int]) -> None:
        """
        Give these signals back, after what is pending has been received.
        """
        if (descriptor := self._descriptor) is None:
            return
        descriptor.unwatch(signals)
        # Who has received what was pending may have closed us.
        if self._descriptor is descriptor and not descriptor.signals:
            self._removeReader(descriptor)
            self.close()

    def stop(self) -> None:
        """
        Receive what is pending, and then no more.
        """
        if (descriptor := self._descriptor) is not None:
            self._removeReader(descriptor)
            try:
                descriptor.drain(last=True)
            except OSError:
                _log.failure("what is pending cannot be read")

    def _removeReader(self, descriptor: SignalDescriptor) -> None:
        try:
            self._reactor.removeReader(descriptor)
        except OSError:
            # Somebody has closed it behind our back, as with os.closerange.
            # That must not keep the rest from being given back.
            _log.failure("the reactor cannot remove the descriptor")

    def close(self) -> None:
        """
        Give everything back; L{stop} first.

        @raise OSError: When the main thread could not be told.
        """
        trigger, self._startTrigger = self._startTrigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._leaveSpawnProcess()
            self._withoutSiginfo += descriptor.withoutSiginfo
            descriptor.close()

    def _descriptorLost(self, reason: Failure) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:  # or a handler of what came last has closed us
            self._leaveSpawnProcess()
            self._withoutSiginfo += descriptor.withoutSiginfo
        self._lost(reason)
