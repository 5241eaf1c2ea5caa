# -*- test-case-name: tests.dispatch.test_dispatcher -*-
"""
L{Backend}: the source of a dispatcher's signals.

L{ReactorBackend} reads a descriptor in the turns of a reactor.  The descriptor is
a signalfd (C{signalfd}), or a pipe that a signal handler in C writes to
(C{handler}) where the system has no signalfd(2) or a sandbox forbids it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsignalfd._dispatch.description import BackendDescription
from txsignalfd._kernel.descriptor import (
    RECORDS_PER_READ,
    SignalDescriptor,
)
from txsignalfd._kernel.doorbell import Doorbell
from txsignalfd._kernel.mask import collectDeferred
from txsignalfd._kernel.pipe import SignalPipe
from txsignalfd.lowlevel import SFD_CLOEXEC, SignalfdUnavailable, signalfd
from txsignalfd.siginfo import SigInfo

_log: Final = Logger("txsignalfd.dispatcher.SignalDispatcher")

SIGNALFD: Final = "signalfd"
HANDLER: Final = "handler"

#: The environment variable that names the backend when the program does not.
VARIABLE: Final = "TXSIGNALFD_BACKEND"


def checkBackend(name: str | None) -> str | None:
    """
    Return the backend that the program names, or else the environment.

    @return: The name, or C{None} to use the best backend of the system.
    @raise ValueError: For an unknown name.
    """
    where = "backend"
    if name is None:
        name = os.environ.get(VARIABLE) or None
        where = VARIABLE
    if name in (None, SIGNALFD, HANDLER):
        return name
    raise ValueError(
        f"{where} {name!r} is unknown: the backends are {SIGNALFD!r} and {HANDLER!r}"
    )


def bestBackend() -> str:
    """
    Return the name of the best backend that works on this system.

    @raise OSError: When a signalfd cannot be opened for another reason.
    """
    try:
        os.close(signalfd(-1, [], SFD_CLOEXEC))
    except SignalfdUnavailable:
        return HANDLER
    return SIGNALFD


class Backend(Protocol):
    """
    A source of signals for a dispatcher.
    """

    def describe(self) -> BackendDescription:
        """
        Describe the backend.
        """

    @property
    def signals(self) -> frozenset[int]:
        """
        The signals that are watched.
        """

    def checkProcess(self) -> None:
        """
        Check that this process may use the backend.

        @raise WatchedByParent: In a child that was forked after a signal was
            watched.
        """

    def watch(self, signals: Collection[int]) -> None:
        """
        Watch more signals, all or none.
        """

    def unwatch(self, signals: Collection[int]) -> None:
        """
        Release signals, after those that are pending have been received.
        """

    def setInternal(self, internal: bool) -> None:
        """
        Choose whether the reactor counts the descriptors as its own.
        """

    def pause(self) -> int:
        """
        Leave signals pending until L{resume}, and receive those that have left the
        kernel's queue.

        @return: How many signals were received.
        """

    def resume(self) -> None:
        """
        Undo L{pause}.
        """

    def stop(self) -> None:
        """
        Receive the pending signals, and stop reading.
        """

    def close(self) -> None:
        """
        Release everything; call L{stop} first.

        @raise OSError: When something could not be released.
        """


def atShutdown(
    reactor: Any, phase: str, function: Callable[[], object]
) -> Callable[[], None]:
    """
    Call a function when the reactor stops.

    @param reactor: A reactor, or an object that cannot stop, such as
        C{twisted.internet.task.Clock}.
    @param phase: See C{IReactorCore.addSystemEventTrigger}.
    @return: A function that cancels the call.
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
            # Twisted's MemoryReactor cannot remove triggers.  A trigger that stays
            # does no harm: it has nothing to call.
            with suppress(NotImplementedError):
                reactor.removeSystemEventTrigger(trigger)

    return forget


_DESCRIPTORS: Final[dict[str, type[SignalDescriptor]]] = {
    SIGNALFD: SignalDescriptor,
    HANDLER: SignalPipe,
}


class ReactorBackend:
    """
    Receives signals in the turns of a reactor.

    It holds system resources only while a signal is watched.
    """

    def __init__(
        self,
        name: str | None,
        reactor: Any,
        receive: Callable[[list[SigInfo]], object],
        lost: Callable[[Failure], object],
        explain: Callable[[int], tuple[str, str]],
    ) -> None:
        """
        @param name: A known name, or C{None} to choose the best backend when the
            first signal is watched.
        @param reactor: Any reactor with C{addReader}.
        @param receive: Called with the signals of each read.
        @param lost: Called with the reason when the reactor has dropped the
            descriptor and everything is released.
        @param explain: See L{SignalDescriptor.explain}.
        """
        self._name = name
        self._reactor = reactor
        self._receive = receive
        self._lost = lost
        self._explain = explain
        self._descriptor: SignalDescriptor | None = None
        self._doorbell: Doorbell | None = None
        self._withoutSiginfo = 0
        self._startTrigger: Any = None
        self._isWoken = False
        self._internal = False

    def describe(self) -> BackendDescription:
        """
        Describe the backend that is used, or that would be used now.
        """
        descriptor = self._descriptor
        withoutSiginfo = self._withoutSiginfo + (
            0 if descriptor is None else descriptor.withoutSiginfo
        )
        return BackendDescription(self._name or bestBackend(), withoutSiginfo)

    @property
    def signals(self) -> frozenset[int]:
        """
        The signals that are watched.
        """
        descriptor = self._descriptor
        return frozenset() if descriptor is None else descriptor.signals

    def checkProcess(self) -> None:
        """
        Check that this process may use the backend.

        @raise WatchedByParent: In a child that was forked after a signal was
            watched.
        """
        if self._descriptor is not None:
            self._descriptor.checkProcess()

    def watch(self, signals: Collection[int]) -> None:
        """
        Watch more signals, all or none.
        """
        if self._descriptor is not None:
            self._descriptor.watch(signals)
            # This has an effect only when the reader was removed from the reactor,
            # as trial does after a test that leaves it unclean.
            self._addReaders(self._descriptor)
        elif signals:
            self._open(signals)

    def _open(self, signals: Collection[int]) -> None:
        if self._name is None:
            self._name = bestBackend()
        with ExitStack() as undo:
            doorbell = -1
            if self._name == SIGNALFD:  # a pipe wakes the reactor by itself
                self._doorbell = Doorbell(self._collect)
                undo.callback(self._closeDoorbell)
                doorbell = self._doorbell.fileno()
            descriptor = _DESCRIPTORS[self._name](
                signals, self._receive, self._descriptorLost, self._wake, doorbell
            )
            descriptor.explain = self._explain
            undo.callback(descriptor.close)
            self._addReaders(descriptor)
            undo.pop_all()
        self._descriptor = descriptor
        # The reactor may start in another thread, and Twisted installs its own
        # handlers then.
        self._startTrigger = self._reactor.callWhenRunning(
            self._claimForThread, descriptor
        )

    def _addReaders(self, descriptor: SignalDescriptor) -> None:
        self._reactor.addReader(descriptor)
        if self._doorbell is not None:
            self._reactor.addReader(self._doorbell)
        if self._internal:
            self._internalReaders.update(self._readers(descriptor))

    def _readers(self, descriptor: SignalDescriptor) -> set[IReadDescriptor]:
        return {descriptor} if self._doorbell is None else {descriptor, self._doorbell}

    @property
    def _internalReaders(self) -> set[Any]:
        """
        The readers that the reactor's C{removeAll} leaves alone.

        The set is not public.  Twisted's C{_addInternalReader} would not do, because
        the reader was perhaps added before, and its pendant raises an error for a
        reader that is not in the set.
        """
        readers: set[Any] = getattr(self._reactor, "_internalReaders", set())
        return readers

    def setInternal(self, internal: bool) -> None:
        """
        Choose whether the reactor counts the descriptors as its own.

        C{trial} removes all other readers after each test, and reports them.
        """
        self._internal = internal
        if self._descriptor is not None:
            readers = self._readers(self._descriptor)
            if internal:
                self._internalReaders.update(readers)
            else:
                self._internalReaders.difference_update(readers)

    def _closeDoorbell(self) -> None:
        doorbell, self._doorbell = self._doorbell, None
        if doorbell is not None:
            self._removeReader(doorbell)
            doorbell.close()

    def _collect(self) -> None:
        collectDeferred()
        self._receiveSome()

    def _receiveSome(self) -> None:
        if self._descriptor is not None:
            self._descriptor.receiveDeferred(RECORDS_PER_READ)

    def _wake(self) -> None:
        if self._isWoken:
            return
        self._isWoken = True
        try:
            self._reactor.callFromThread(self._receiveDeferred)
        except BaseException:
            self._isWoken = False
            raise

    def _receiveDeferred(self) -> None:
        # Before they are looked at: another thread may be adding some.
        self._isWoken = False
        self._receiveSome()
        # A receiver may have closed it.
        if self._descriptor is not None and self._descriptor.hasDeferred:
            self._wake()

    def _claimForThread(self, descriptor: SignalDescriptor) -> None:
        self._startTrigger = None
        descriptor.claimForThread()

    def unwatch(self, signals: Collection[int]) -> None:
        """
        Release signals, after those that are pending have been received.
        """
        if (descriptor := self._descriptor) is None:
            return
        descriptor.unwatch(signals)
        # A handler of a pending signal may have closed the dispatcher.
        if self._descriptor is descriptor and not descriptor.signals:
            self._removeReader(descriptor)
            self.close()

    def pause(self) -> int:
        """
        Leave signals pending until L{resume}; see L{SignalDescriptor.pause}.
        """
        return 0 if self._descriptor is None else self._descriptor.pause()

    def resume(self) -> None:
        """
        Undo L{pause}.
        """
        if self._descriptor is not None:
            self._descriptor.resume()

    def stop(self) -> None:
        """
        Receive the pending signals, and stop reading.
        """
        if (descriptor := self._descriptor) is not None:
            self._removeReader(descriptor)
            try:
                descriptor.drain(last=True)
            except OSError:
                _log.failure("cannot read the pending signals")

    def _removeReader(self, reader: IReadDescriptor) -> None:
        self._internalReaders.discard(reader)
        try:
            self._reactor.removeReader(reader)
        except OSError:
            # Other code has closed it, as os.closerange does.  The rest must be
            # released nevertheless.
            _log.failure("the reactor cannot remove the signal descriptor")

    def close(self) -> None:
        """
        Release everything; call L{stop} first.

        @raise OSError: When the mask of the main thread could not be restored.
        """
        trigger, self._startTrigger = self._startTrigger, None
        if trigger is not None:
            self._reactor.removeSystemEventTrigger(trigger)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                descriptor.close()
            finally:
                self._withoutSiginfo += descriptor.withoutSiginfo
                self._closeDoorbell()

    def _descriptorLost(self, reason: Failure) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:  # else a handler of the last signals has closed it
            self._internalReaders.discard(descriptor)
            self._withoutSiginfo += descriptor.withoutSiginfo
            self._closeDoorbell()
        self._lost(reason)
