"""
L{EventDescriptor}: a counter that wakes any reactor from anywhere.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import errno
import fcntl
import os
import pickle
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGUSR1
from typing import Any
from unittest.mock import Mock

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ILoggingContext, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from tests.support.daemons import (
    adoptingOrphans,
    childrenOf,
    endOf,
    python,
    waitFor,
)
from tests.support.handlers import everyReactor
from tests.support.inreactor import inEveryReactor, inReactor
from tests.support.kernel import checked, inChild, libc, refuse, systemCall
from tests.support.observers import Logged
from tests.support.reactors import spin, turn, until
from txsignalfd import (
    CounterFull,
    EventDescriptor,
    EventDescriptorClosed,
    EventfdUnavailable,
)
from txsignalfd.eventfd import MOST


@contextmanager
def reading(
    reactor: Any, callback: Callable[[int], object], **options: Any
) -> Iterator[EventDescriptor]:
    """
    A descriptor that a reactor reads.
    """
    descriptor = EventDescriptor(callback, **options)
    reactor.addReader(descriptor)
    yield descriptor
    reactor.removeReader(descriptor)
    descriptor.close()


def fromHere(descriptor: EventDescriptor) -> None:
    descriptor.add(3)


def fromAThread(descriptor: EventDescriptor) -> None:
    thread = threading.Thread(target=descriptor.add, args=(3,))
    thread.start()
    thread.join()


def fromAForkedProcess(descriptor: EventDescriptor) -> None:
    inChild(lambda: descriptor.add(3))


def fromAThreadOfAForkedProcess(descriptor: EventDescriptor) -> None:
    inChild(lambda: fromAThread(descriptor))


def fromAnotherProgram(descriptor: EventDescriptor) -> None:
    """
    The other program inherits the descriptor.
    """
    number = descriptor.fileno()
    source = f"import os; os.eventfd_write({number}, 3)"
    subprocess.run([sys.executable, "-c", source], pass_fds=[number], check=True)


def fromC(descriptor: EventDescriptor) -> None:
    """
    A thread without the GIL calls the C library's function.
    """
    write = libc.eventfd_write
    write.argtypes = [ctypes.c_int, ctypes.c_uint64]

    def call() -> None:
        checked(write(descriptor.fileno(), 3))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def fromASignalHandler(descriptor: EventDescriptor) -> None:
    """
    A Python handler interrupts the main thread.
    """
    before = signal.signal(SIGUSR1, lambda signo, frame: descriptor.add(3))
    os.kill(os.getpid(), SIGUSR1)
    signal.signal(SIGUSR1, before)


Way = Callable[[EventDescriptor], None]
WAYS = [
    fromHere,
    fromAThread,
    fromAForkedProcess,
    fromAThreadOfAForkedProcess,
    fromAnotherProgram,
    fromC,
    fromASignalHandler,
]


@pytest.mark.parametrize("way", WAYS)
@inReactor
async def test_itWakesAReactorFromAnywhere(reactor: Any, way: Way) -> None:
    """
    The callback gets the number that was added, once.
    """
    counts: list[int] = []
    with reading(reactor, counts.append) as descriptor:
        await turn()
        way(descriptor)
        await until(lambda: counts)
        await turn()
        assert counts == [3]


@inEveryReactor
async def test_aSleepingReactorIsWoken(reactor: Any) -> None:
    told: Deferred[int] = Deferred()
    with reading(reactor, told.callback) as descriptor:
        pid = os.fork()
        if pid == 0:
            # The reactor should sleep by then; the test passes also when it does not.
            select.select([], [], [], 0.01)
            descriptor.add(7)
            os._exit(0)
        assert await told == 7
        assert os.waitpid(pid, 0) == (pid, 0)


@everyReactor
@inReactor
async def test_numbersAddedBetweenTwoTurnsAreOneSum(reactor: Any, kind: str) -> None:
    """
    The initial value is part of the sum.
    """
    counts: list[int] = []
    descriptor = EventDescriptor(counts.append, initial=100)
    fromHere(descriptor)
    fromAForkedProcess(descriptor)
    descriptor.add()
    descriptor.add(0)
    reactor.addReader(descriptor)
    await until(lambda: counts)
    descriptor.add(2)
    await until(lambda: len(counts) > 1)
    assert counts == [107, 2]
    reactor.removeReader(descriptor)
    descriptor.close()


@inReactor
async def test_nothingIsLostWhileManyAdd(reactor: Any) -> None:
    """
    Threads and processes add as fast as they can while the reactor reads.
    """
    each, threads, processes = 2_000, 4, 3

    counts: list[int] = []
    with reading(reactor, counts.append) as descriptor:

        def work() -> None:
            for _ in range(each):
                descriptor.add()

        pids = []
        for _ in range(processes):
            pids.append(os.fork())
            if pids[-1] == 0:
                try:
                    work()
                finally:
                    os._exit(0)
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        total = each * (threads + processes)
        await until(lambda: sum(counts) >= total)
        for worker in workers:
            worker.join()
        for pid in pids:
            assert os.waitpid(pid, 0) == (pid, 0)
        await turn()
        assert sum(counts) == total
        assert len(counts) < total


@everyReactor
@inReactor
async def test_aSemaphoreCountsDownByOneInATurn(reactor: Any, kind: str) -> None:
    """
    Other descriptors have their turns in between.
    """
    counts: list[int] = []
    with reading(reactor, counts.append, initial=2, semaphore=True) as descriptor:
        descriptor.add(3)
        await until(lambda: len(counts) == 5)
        await turn()
        assert counts == [1] * 5


def test_processesShareASemaphore() -> None:
    """
    Each unit goes to one process, and no process waits for another.
    """
    taken: list[int] = []
    descriptor = EventDescriptor(taken.append, initial=5, semaphore=True)

    def take() -> int:
        for _ in range(2):
            assert descriptor.doRead() is None
        return len(taken)

    assert inChild(take) == 2
    for _ in range(10):
        assert descriptor.doRead() is None
    assert taken == [1, 1, 1]
    descriptor.close()


def test_addingToAFullCounterRaisesWithoutWaiting() -> None:
    """
    Nothing is added, and it works again when the counter has been read.
    """
    counts: list[int] = []
    descriptor = EventDescriptor(counts.append, initial=MOST)
    for n in (1, MOST):
        with pytest.raises(CounterFull, match="nothing was added") as full:
            descriptor.add(n)
        assert full.value.errno == errno.EAGAIN
        assert isinstance(full.value, BlockingIOError)
        assert "Add it again" in str(full.value)
    descriptor.add(0)
    assert descriptor.doRead() is None
    descriptor.add(MOST - 1)
    descriptor.add()
    with pytest.raises(CounterFull):
        inChild(descriptor.add)
    assert descriptor.doRead() is None
    assert descriptor.doRead() is None  # EAGAIN is no error
    assert counts == [MOST, MOST]
    descriptor.close()


@pytest.mark.parametrize("n", [-1, MOST + 1, 2**64, 2**100])
def test_aNumberThatDoesNotFitIsAValueError(n: int) -> None:
    """
    Nothing is added, and no descriptor is left open.
    """
    with pytest.raises(
        ValueError, match=f"{n} cannot be added: it must be 0 to {MOST}"
    ):
        EventDescriptor(print, initial=n)
    descriptor = EventDescriptor(print)
    with pytest.raises(ValueError, match=f"{n} cannot be added"):
        descriptor.add(n)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(descriptor.fileno())
    descriptor.close()


@pytest.mark.parametrize("n", [1.5, "1", None])
def test_onlyAnIntegerCanBeAdded(n: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        EventDescriptor(print, n)
    descriptor = EventDescriptor(print)
    with pytest.raises(TypeError, match="integer"):
        descriptor.add(n)
    descriptor.close()


def test_itProvidesIReadDescriptor() -> None:
    descriptor = EventDescriptor(print)
    assert verifyObject(IReadDescriptor, descriptor)
    assert verifyObject(ILoggingContext, descriptor)
    assert descriptor.logPrefix() == "EventDescriptor"
    number = descriptor.fileno()
    assert repr(descriptor) == (
        f"<EventDescriptor {number}, counter of builtins.print>"
    )
    assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not os.get_blocking(number)
    descriptor.close()
    other = EventDescriptor(print, semaphore=True)
    assert "semaphore" in repr(other)
    other.close()
    assert repr(other).startswith("<EventDescriptor -1,")


#: Exceptions that must not end a reactor.
ERRORS = [ZeroDivisionError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]


@pytest.mark.parametrize("error", ERRORS)
@everyReactor
@inReactor
async def test_aCallbackThatRaisesIsLogged(
    reactor: Any, kind: str, error: type[BaseException], logged: Logged
) -> None:
    """
    The descriptor goes on, and the callback is called again.
    """
    counts: list[int] = []

    def raises(count: int) -> None:
        counts.append(count)
        raise error

    with reading(reactor, raises) as descriptor:
        for expected in (1, 2):
            descriptor.add(expected)
            await until(lambda n=expected: len(counts) == n)  # type: ignore[misc]
    assert [event["count"] for event in logged if "count" in event] == [1, 2]
    assert all(failure.check(error) for failure in logged.failures)


@pytest.mark.parametrize("error", ERRORS)
@everyReactor
def test_lostThatRaisesIsLogged(
    kind: str, error: type[BaseException], logged: Logged
) -> None:
    """
    A reactor that stops closes its other descriptors all the same.
    """
    lost = [Mock(side_effect=error) for _ in range(2)]
    descriptors = [EventDescriptor(print, lost=each) for each in lost]

    async def main(reactor: Any) -> None:
        for descriptor in descriptors:
            reactor.addReader(descriptor)

    spin(main, kind)
    assert [each.call_count for each in lost] == [1, 1]
    assert [bool(failure.check(error)) for failure in logged.failures] == [True, True]


@everyReactor
@inReactor
async def test_aCallbackMayCloseTheDescriptor(reactor: Any, kind: str) -> None:

    def close(count: int) -> None:
        reactor.removeReader(closing)
        number = closing.fileno()
        closing.close()
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(number)
        done.append(count)

    done: list[int] = []
    closing = EventDescriptor(close)
    reactor.addReader(closing)
    closing.add(2)
    await until(lambda: done)
    await turn()
    assert done == [2]


def test_addingToAClosedDescriptorRaises() -> None:
    """
    The file that has its number now is left alone.
    """
    descriptor = EventDescriptor(print, initial=1)
    number = descriptor.fileno()
    descriptor.close()
    descriptor.close()
    other = os.eventfd(0, os.EFD_NONBLOCK)
    assert other == number
    with pytest.raises(EventDescriptorClosed, match="is closed"):
        descriptor.add()
    assert descriptor.fileno() == -1
    descriptor.connectionLost(Failure(ZeroDivisionError()))
    with pytest.raises(BlockingIOError):
        os.eventfd_read(other)
    os.close(other)
    assert descriptor.doRead() is None


def test_anUnclosedDescriptorIsWarnedOf() -> None:
    """
    It is closed when it is collected, as a socket is.
    """
    left = [EventDescriptor(print)]
    number = left[0].fileno()
    with pytest.warns(ResourceWarning, match=rf"unclosed <EventDescriptor {number},"):
        left.clear()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)


def test_aStoredErrorDoesNotKeepTheCounterOpen() -> None:
    """
    The traceback of an error refers to the variables of its functions.
    """
    descriptor = EventDescriptor(print, initial=MOST)
    with pytest.raises(CounterFull) as kept:
        descriptor.add()
    number = descriptor.fileno()
    descriptor.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)
    del kept


def test_aWriterNeverWritesToAnotherFile(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The descriptor is closed after add has read the number, and before it writes.
    """
    written: list[int] = []
    write = os.eventfd_write

    def closeFirst(fd: int, n: int) -> None:
        descriptor.close()
        other = os.eventfd(0, os.EFD_NONBLOCK)
        write(fd, n)
        written.append(n)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(other)
        os.close(other)

    descriptor = EventDescriptor(print)
    number = descriptor.fileno()
    with monkeypatch.context() as patched:
        patched.setattr(os, "eventfd_write", closeFirst)
        descriptor.add(5)
    assert written == [5]
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)


def test_aChildForkedWhileAThreadAddsCanAdd() -> None:
    """
    There is no lock that the child could inherit in a locked state.
    """
    counts: list[int] = []
    descriptor = EventDescriptor(counts.append)
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            descriptor.add()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(10):
            inChild(descriptor.add)
    finally:
        end.set()
        thread.join()
    descriptor.close()


def test_aChildClosesOnlyItsOwnDescriptor() -> None:
    counts: list[int] = []
    descriptor = EventDescriptor(counts.append)

    def close() -> None:
        descriptor.add(4)
        descriptor.close()
        with pytest.raises(EventDescriptorClosed):
            descriptor.add()

    inChild(close)
    descriptor.doRead()
    assert counts == [4]
    descriptor.close()


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_itCannotBeCopiedOrPickled(again: Callable[[EventDescriptor], Any]) -> None:
    """
    In a worker that is not forked, its number would be that of another file.
    """
    descriptor = EventDescriptor(int)
    with pytest.raises(TypeError, match=r"be copied or pickled: fork the process"):
        again(descriptor)
    descriptor.close()


@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("kind", ["select", "poll"])
@inReactor
async def test_aDeadDescriptorIsReportedOnce(
    reactor: Any, kind: str, heard: bool, logged: Logged
) -> None:
    """
    The file that was put in its place is left alone.  (epoll does not look at the
    number, and so sees nothing of it.)
    """
    lost: list[Failure] = []

    descriptor = EventDescriptor(print, lost=lost.append if heard else None)
    reactor.addReader(descriptor)
    number = descriptor.fileno()
    directory = os.open("/", os.O_RDONLY)
    os.dup2(directory, number, inheritable=False)
    os.close(directory)
    await until(lambda: lost or logged.failures)
    assert descriptor not in reactor.getReaders()
    (reason,) = lost or logged.failures
    assert reason.check(IsADirectoryError)
    descriptor.connectionLost(reason)
    await turn()
    assert len(lost or logged.failures) == 1
    with pytest.raises(EventDescriptorClosed):
        descriptor.add()
    os.close(number)
    assert len(logged.failures) == (not heard)


@everyReactor
def test_theReactorsStopClosesIt(kind: str, logged: Logged) -> None:
    """
    C{lost} is called, and nothing is logged.
    """
    lost: list[Failure] = []
    descriptors = [EventDescriptor(print, lost=lost.append), EventDescriptor(print)]

    async def main(reactor: Any) -> None:
        for descriptor in descriptors:
            reactor.addReader(descriptor)

    spin(main, kind)
    (reason,) = lost
    assert reason.check(ConnectionLost)
    assert [descriptor.fileno() for descriptor in descriptors] == [-1, -1]
    assert not logged.failures


def test_anErrorOfTheSystemIsRaised() -> None:
    """
    A process without a free descriptor gets the errno.
    """

    def fail() -> BaseException:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
            EventDescriptor(print)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)  # coverage writes a file
        return caught.value

    error = inChild(fail)
    assert isinstance(error, OSError)
    assert error.errno == errno.EMFILE


def test_aPythonWithoutEventfdRaisesEventfdUnavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "eventfd")
    with pytest.raises(EventfdUnavailable, match="it needs Linux") as caught:
        EventDescriptor(print)
    assert caught.value.errno == errno.ENOSYS


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
def test_aSandboxThatForbidsEventfdRaisesEventfdUnavailable(error: int) -> None:
    """
    The errno is that of the filter of seccomp(2).
    """
    systemCall("eventfd2")

    def make() -> int | None:
        refuse("eventfd2", error)
        with pytest.raises(EventfdUnavailable, match="a sandbox that allows") as caught:
            EventDescriptor(print)
        return caught.value.errno

    assert inChild(make) == error


#: A program that daemonizes after its reactor is set up, as twistd does.
DAEMON = """
import os, sys
from twisted.internet import epollreactor
epollreactor.install()
from twisted.internet import reactor
from txsignalfd import EventDescriptor

def woken(count):
    print("woken", count, flush=True)
    reactor.stop()

descriptor = EventDescriptor(woken)
reactor.addReader(descriptor)
if os.fork():
    os._exit(0)
worker = os.fork()
if worker == 0:
    descriptor.add(6)
    os._exit(0)
os.waitpid(worker, 0)
reactor.run()
"""


def test_itWorksInADaemonThatForksLater(tmp_path: Path) -> None:
    """
    Unlike a signalfd, an eventfd is reported by epoll to each process.
    """
    with adoptingOrphans(), python(tmp_path, DAEMON) as running:
        waitFor(lambda: "woken 6\n" in running.output(), "the daemon is woken")
        assert running.wait() == 0
        (daemon,) = childrenOf(os.getpid())
        assert endOf(daemon) == 0
