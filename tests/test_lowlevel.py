"""
L{txsignalfd.lowlevel}: the calls of signalfd(2), for programs that were written
for the modules before it.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import pickle
import pwd
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGRTMIN, SIGSTOP, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from tests.support.kernel import (
    blocked,
    checked,
    inChild,
    libc,
    listening,
    refuseSignalfd,
    systemCall,
    waitFor,
)
from txsignalfd import SigInfo, lowlevel
from txsignalfd.lowlevel import (
    SFD_CLOEXEC,
    SFD_NONBLOCK,
    SIG_BLOCK,
    SIG_SETMASK,
    SIG_UNBLOCK,
    InvalidArgument,
    SignalfdUnavailable,
    create_signalfd,
    read_siginfo,
    read_signalfd,
    signalfd,
    sigprocmask,
    sigqueue,
)

REALTIME = SIGRTMIN + 3

#: No signals, by the C library: it keeps 32 and 33 for itself.
NO_SIGNALS = [-2, -1, 0, 32, 33, 65, 1700, 2**31, -(2**31) - 1, 2**70]

NO_INTEGERS: list[Any] = ["HUP", b"1", 1.0, None, object(), [1]]


class HasFileno:
    """
    An object that is no number, and has a descriptor.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """
        The number of the descriptor.
        """
        return self.fd


class IsIndex:
    """
    An integer of some other library.
    """

    def __index__(self) -> int:
        """
        The number.
        """
        return int(SIGUSR1)


@pytest.fixture(autouse=True)
def nothingBlocked() -> Iterator[None]:
    """
    A test starts with no signal blocked, and leaves the mask as it was.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def fd() -> Iterator[int]:
    """
    A signalfd for SIGUSR1, SIGUSR2 and a realtime signal, that does not block.
    """
    with listening(SIGUSR1, SIGUSR2, REALTIME) as opened:
        yield opened


def mask() -> set[int]:
    """
    What this thread blocks, as Python says.
    """
    return {int(signo) for signo in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def receives(fd: int) -> set[int]:
    """
    The signals of a signalfd, as the kernel says.
    """
    fields = dict(
        line.split(":\t")
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    )
    bits = int(fields["sigmask"], 16)
    return {signo for signo in range(1, 65) if bits & (1 << (signo - 1))}


def closed() -> int:
    """
    The number of a descriptor that is closed.
    """
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return reader


# --- what every call does with its signals -------------------------------------


def maskThem(signals: Iterable[int]) -> object:
    """
    C{sigprocmask} as a function of its signals.
    """
    return sigprocmask(SIG_BLOCK, signals)


def openThem(signals: Iterable[int]) -> object:
    """
    C{signalfd} as a function of its signals.
    """
    return signalfd(-1, signals)


takingSignals = pytest.mark.parametrize(
    "call", [maskThem, openThem, create_signalfd], ids=lambda call: call.__name__
)
Call = Callable[[Any], object]


@takingSignals
def test_numberThatIsNoSignalIsOutOfRange(call: Call) -> None:
    """
    The error of python-signalfd, and nothing has been done.
    """
    for signo in NO_SIGNALS:
        message = rf"^signal number {signo} out of range$"
        with pytest.raises(ValueError, match=message):
            call([SIGUSR1, signo])
        assert mask() == set()


@takingSignals
def test_whatIsNoNumberIsATypeError(call: Call) -> None:
    """
    The error of python-signalfd, and nothing has been done.
    """
    for value in NO_INTEGERS:
        with pytest.raises(TypeError, match=r"^an integer is required$"):
            call([SIGUSR1, value])
        assert mask() == set()


@takingSignals
def test_whatCannotBeIteratedIsATypeError(call: Call) -> None:
    """
    A signal is no list of signals.
    """
    with pytest.raises(TypeError, match="not iterable"):
        call(SIGUSR1)


class OwnError(Exception):
    """
    What an iterable of a program raises.
    """


@takingSignals
@pytest.mark.parametrize(
    "error", [OwnError("mine"), TypeError("mine"), OSError("mine")]
)
def test_iterablesOwnErrorIsUnchanged(call: Call, error: Exception) -> None:
    """
    The very exception comes out, and nothing has been done.
    """

    def signals() -> Iterator[int]:
        yield SIGUSR1
        raise error

    with pytest.raises(type(error)) as caught:
        call(signals())
    assert caught.value is error
    assert mask() == set()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (signalfd, ()),
        (signalfd, (-1,)),
        (signalfd, (-1, [], 0, 0)),
        (sigprocmask, ()),
        (sigprocmask, (SIG_BLOCK,)),
        (sigprocmask, (SIG_BLOCK, [], 0)),
        (create_signalfd, ()),
        (create_signalfd, ([], 0, 0)),
        (read_signalfd, ()),
        (read_signalfd, (0, 0)),
        (sigqueue, ()),
        (sigqueue, (1,)),
        (sigqueue, (1, 0, 0, 0)),
    ],
)
def test_wrongNumberOfArgumentsIsATypeError(
    call: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    """
    The error of python-signalfd.
    """
    with pytest.raises(TypeError, match="argument"):
        call(*arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda value: signalfd(value, []),
        lambda value: signalfd(HasFileno(value), []),
        lambda value: signalfd(-1, [], value),
        lambda value: sigprocmask(value, []),
        lambda value: create_signalfd([SIGUSR1], value),
        read_signalfd,
        lambda value: read_signalfd(HasFileno(value)),
        lambda value: sigqueue(value, 0),
        lambda value: sigqueue(1, value),
        lambda value: sigqueue(1, 0, value),
    ],
)
def test_everyOtherArgumentIsANumberToo(call: Call) -> None:
    """
    A text, a float or None is no descriptor, flag, process or value.
    """
    for value in NO_INTEGERS:
        with pytest.raises(TypeError, match=r"^an integer is required$"):
            call(value)
        assert mask() == set()


@takingSignals
def test_anyIntegersInAnyIterableAreTaken(call: Call) -> None:
    """
    Signals of the signal module, numbers, and what has C{__index__}.
    """
    for signals in (
        [IsIndex()],
        iter([10]),
        {SIGUSR1: 1},
        (SIGUSR1, SIGUSR1),
        range(0),
    ):
        result = call(signals)
        if isinstance(result, int):
            os.close(result)


# --- sigprocmask ---------------------------------------------------------------


def test_sigprocmaskGivesWhatWasBlockedBefore() -> None:
    """
    Realtime signals too, as sorted numbers, so that it can be put back.
    """
    assert sigprocmask(SIG_BLOCK, [REALTIME, SIGUSR1]) == []
    assert sigprocmask(SIG_BLOCK, [SIGHUP]) == [SIGUSR1, REALTIME]
    assert sigprocmask(SIG_UNBLOCK, [SIGUSR1]) == [SIGHUP, SIGUSR1, REALTIME]
    assert sigprocmask(SIG_SETMASK, [SIGUSR2, 64]) == [SIGHUP, REALTIME]
    before = sigprocmask(SIG_SETMASK, [])
    assert before == [SIGUSR2, 64]
    assert {type(signo) for signo in before} == {int}
    assert mask() == set()


def test_sigprocmasksOwnNumbersAreThoseOfTheSystem() -> None:
    """
    They can be mixed with those of the signal module.
    """
    assert SIG_BLOCK == signal.SIG_BLOCK
    assert SIG_UNBLOCK == signal.SIG_UNBLOCK
    assert SIG_SETMASK == signal.SIG_SETMASK


def test_sigprocmaskHoldsASignalBack() -> None:
    """
    A signal that comes while it is blocked is handled when it no longer is.
    """
    handled: list[int] = []
    before = signal.signal(SIGUSR1, lambda signo, frame: handled.append(signo))
    try:
        sigprocmask(SIG_BLOCK, [SIGUSR1])
        os.kill(os.getpid(), SIGUSR1)
        assert handled == []
        assert signal.sigpending() == {SIGUSR1}
        sigprocmask(SIG_UNBLOCK, [SIGUSR1])
        assert handled == [SIGUSR1]
    finally:
        signal.signal(SIGUSR1, before)


def test_sigprocmaskIsOfOneThread() -> None:
    """
    A thread starts with the mask of its maker, and changes only its own.
    """
    found: list[list[int]] = []

    def change() -> None:
        found.append(sigprocmask(SIG_SETMASK, [SIGUSR2]))
        found.append(sigprocmask(SIG_BLOCK, []))

    sigprocmask(SIG_BLOCK, [SIGUSR1])
    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    assert found == [[SIGUSR1], [SIGUSR2]]
    assert sigprocmask(SIG_BLOCK, []) == [SIGUSR1]


@pytest.mark.parametrize("signo", [SIGKILL, SIGSTOP])
def test_sigprocmaskDropsWhatCannotBeBlocked(signo: int) -> None:
    """
    SIGKILL and SIGSTOP are no error, and never blocked.
    """
    sigprocmask(SIG_BLOCK, [signo, SIGUSR1])
    assert sigprocmask(SIG_BLOCK, []) == [SIGUSR1]


@pytest.mark.parametrize("how", [1700, -1, 3])
def test_sigprocmaskRefusesAnUnknownHow(how: int) -> None:
    """
    The error of python-signalfd, and nothing has been done.
    """
    message = re.escape(f"value specified for how ({how}) invalid")
    with pytest.raises(ValueError, match=f"^{message}$"):
        sigprocmask(how, [SIGUSR1])
    assert mask() == set()


def blockOneOfTheLibrarysOwn() -> None:
    """
    Block signal 32 behind the C library's back, as a process can inherit it
    from one that does not use the C library.
    """
    bits = ctypes.c_char_p(struct.pack("=Q", 1 << 31))
    checked(libc.syscall(systemCall("rt_sigprocmask"), SIG_BLOCK, bits, None, 8))


def test_sigprocmaskCanAlwaysBeUndone() -> None:
    """
    What it gives can be set again, whatever the process has inherited.
    """
    systemCall("rt_sigprocmask")

    def undo() -> set[int]:
        blockOneOfTheLibrarysOwn()
        before = sigprocmask(SIG_BLOCK, [SIGUSR1])
        sigprocmask(SIG_SETMASK, before)
        return mask() & {SIGUSR1}

    assert inChild(undo) == set()


# --- signalfd ------------------------------------------------------------------


@pytest.mark.parametrize("create", [lambda *a: signalfd(-1, *a), create_signalfd])
@pytest.mark.parametrize(
    "flags", [0, SFD_CLOEXEC, SFD_NONBLOCK, SFD_CLOEXEC | SFD_NONBLOCK]
)
def test_flagsAreSetExactlyAsAsked(create: Callable[..., int], flags: int) -> None:
    """
    By default the descriptor blocks, and is inherited across exec.
    """
    made = create([SIGUSR1], flags) if flags else create([SIGUSR1])
    try:
        assert os.get_inheritable(made) == (not flags & SFD_CLOEXEC)
        assert os.get_blocking(made) == (not flags & SFD_NONBLOCK)
        assert receives(made) == {SIGUSR1}
    finally:
        os.close(made)


def test_signalfdBlocksNothingByItself() -> None:
    """
    It is the call of the system, and no more.
    """
    made = signalfd(-1, [SIGUSR1, REALTIME])
    os.close(made)
    assert mask() == set()


@pytest.mark.parametrize("signals", [[], [SIGUSR1], range(1, 32), [34, 64]])
def test_signalfdReceivesWhatItIsAskedFor(signals: Iterable[int]) -> None:
    """
    Any set of signals, without SIGKILL and SIGSTOP, which nobody receives.
    """
    made = signalfd(-1, signals)
    try:
        assert receives(made) == set(signals) - {SIGKILL, SIGSTOP}
    finally:
        os.close(made)


@pytest.mark.parametrize("wrap", [int, HasFileno])
def test_signalfdCanBeChanged(fd: int, wrap: Callable[[int], Any]) -> None:
    """
    With the descriptor of an old one, by number or as an object, it is that
    one which receives other signals; its flags stay.
    """
    assert signalfd(wrap(fd), [REALTIME], 0) == fd
    assert receives(fd) == {REALTIME}
    assert os.get_blocking(fd) is False
    assert os.get_inheritable(fd) is False
    os.kill(os.getpid(), SIGUSR1)
    with pytest.raises(BlockingIOError):
        read_signalfd(fd)
    assert signalfd(wrap(fd), [SIGUSR1]) == fd
    assert read_signalfd(fd).signo == SIGUSR1


def test_descriptorThatIsNotASignalfdIsBothErrors() -> None:
    """
    EINVAL is an OSError with its errno, and a ValueError.
    """
    reader, writer = os.pipe()
    try:
        with pytest.raises(InvalidArgument) as caught:
            signalfd(reader, [SIGUSR1])
    finally:
        os.close(reader)
        os.close(writer)
    assertBothErrors(caught.value, errno.EINVAL)


def test_closedDescriptorIsBothErrors() -> None:
    """
    EBADF is an OSError with its errno, and a ValueError.
    """
    for number in (closed(), -2):
        with pytest.raises(InvalidArgument) as caught:
            signalfd(number, [SIGUSR1])
        assertBothErrors(caught.value, errno.EBADF)


@pytest.mark.parametrize("flags", [1, -1, 1 << 20])
def test_unknownFlagsAreBothErrors(flags: int) -> None:
    """
    EINVAL is an OSError with its errno, and a ValueError; and nothing has
    been blocked.
    """
    for call in (openWith, create_signalfd):
        with pytest.raises(InvalidArgument) as caught:
            call([SIGUSR1], flags)
        assertBothErrors(caught.value, errno.EINVAL)
        assert mask() == set()


def openWith(signals: Iterable[int], flags: int) -> int:
    """
    C{signalfd} with the arguments of C{create_signalfd}.
    """
    return signalfd(-1, signals, flags)


def assertBothErrors(error: BaseException, number: int) -> None:
    """
    A program that catches either finds it, and its errno, also in another
    process.
    """
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(found, OSError)
        assert isinstance(found, ValueError)
        assert found.errno == number
        assert os.strerror(number) in str(found)


def test_numberTooLargeForTheSystemIsAnOverflowError() -> None:
    """
    It is not cut short to some other number.
    """
    for number in (2**31, -(2**31) - 1, 2**40):
        for call in (
            lambda n: signalfd(n, []),
            lambda n: signalfd(-1, [], n),
            lambda n: create_signalfd([SIGUSR1], n),
            lambda n: sigprocmask(n, []),
            lambda n: sigqueue(n, 0),
            lambda n: sigqueue(os.getpid(), n),
            lambda n: sigqueue(os.getpid(), 0, n),
        ):
            with pytest.raises(OverflowError):
                call(number)
            assert mask() == set()


# --- create_signalfd -----------------------------------------------------------


def test_createSignalfdBlocksAndReceives() -> None:
    """
    One call for both; a generator will do, and so will the whole list of
    signals with SIGKILL and SIGSTOP in it.
    """
    sigprocmask(SIG_BLOCK, [SIGHUP])
    signals = [SIGKILL, SIGUSR1, SIGSTOP, REALTIME]
    made = create_signalfd(signo for signo in signals)
    try:
        assert receives(made) == {SIGUSR1, REALTIME}
        assert mask() == {SIGHUP, SIGUSR1, REALTIME}
        os.kill(os.getpid(), SIGUSR1)
        assert read_signalfd(made).signo == SIGUSR1
    finally:
        os.close(made)


def failWithoutDescriptors(
    signals: Callable[[], Iterable[int]], before: Iterable[int]
) -> tuple[BaseException, set[int]]:
    """
    The error of C{create_signalfd} when the process may open nothing more, and
    the mask after it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sigprocmask(SIG_SETMASK, before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)) as caught:
        create_signalfd(signals())
    return caught.value, mask()


@pytest.mark.parametrize("before", [set(), {SIGUSR1}, {SIGHUP, 64}])
@pytest.mark.parametrize(
    "signals",
    [
        lambda: [SIGUSR1, REALTIME],
        lambda: iter([SIGUSR1, REALTIME]),
        lambda: [SIGKILL, SIGUSR1, SIGSTOP, REALTIME],
        lambda: lowlevel.ALL_SIGNALS,
    ],
    ids=["list", "generator", "unblockable", "all"],
)
def test_createSignalfdThatFailsHasBlockedNothing(
    signals: Callable[[], Iterable[int]], before: set[int]
) -> None:
    """
    EMFILE is the OSError that it is, and what was blocked before still is.
    """
    error, after = inChild(lambda: failWithoutDescriptors(signals, before))
    assert isinstance(error, OSError)
    assert not isinstance(error, ValueError)
    assert error.errno == errno.EMFILE
    assert after == before


def test_createSignalfdThatFailsSaysWhyWhateverIsInherited() -> None:
    """
    A mask that no call could set does not hide the error, nor stay in part.
    """
    systemCall("rt_sigprocmask")

    def fail() -> tuple[InvalidArgument, set[int]]:
        blockOneOfTheLibrarysOwn()
        with pytest.raises(InvalidArgument) as caught:
            create_signalfd([SIGUSR1], 1 << 20)
        return caught.value, mask() & {SIGUSR1}

    error, after = inChild(fail)
    assertBothErrors(error, errno.EINVAL)
    assert after == set()


def test_createSignalfdOfEverySignal() -> None:
    """
    All signals that Python names can be received at once.
    """
    made = create_signalfd(lowlevel.ALL_SIGNALS)
    try:
        everything = set(signal.Signals) - {SIGKILL, SIGSTOP}
        assert receives(made) == everything
        assert mask() == everything
    finally:
        os.close(made)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_systemWithoutSignalfdIsSaid(number: int) -> None:
    """
    An old kernel or a sandbox is named in the error; create_signalfd has then
    blocked nothing.
    """
    systemCall("signalfd4")

    def fail() -> tuple[list[BaseException], set[int]]:
        refuseSignalfd(number)
        errors: list[BaseException] = []
        for call in (openThem, create_signalfd):
            with pytest.raises(SignalfdUnavailable) as caught:
                call([SIGUSR1])
            errors.append(caught.value)
        return errors, mask()

    errors, after = inChild(fail)
    for error in errors:
        assert isinstance(error, OSError)
        assert not isinstance(error, ValueError)
        assert error.errno == number
        assert "signalfd(2)" in str(error)
        assert "Linux 2.6.27" in str(error)
        assert "sandbox" in str(error)
    assert after == set()


# --- read_signalfd -------------------------------------------------------------


def openRaw(fd: int) -> Any:
    """
    An unbuffered file.
    """
    return open(fd, "rb", buffering=0, closefd=False)


def openBuffered(fd: int) -> Any:
    """
    A buffered file.
    """
    return open(fd, "rb", closefd=False)


readable = pytest.mark.parametrize("wrap", [int, HasFileno, openRaw, openBuffered])
Wrap = Callable[[int], Any]


@readable
def test_signalIsReadFromWhateverHasADescriptor(fd: int, wrap: Wrap) -> None:
    """
    A number, an object with C{fileno}, a raw and a buffered file: one signal
    at a time, in order, then BlockingIOError, and it goes on after that.
    """
    source = wrap(fd)
    for _ in range(2):
        for value in (1, 2, 3):
            sigqueue(os.getpid(), REALTIME, value)
        read = [read_signalfd(source) for _ in range(3)]
        assert [(info.signo, info.value) for info in read] == [
            (REALTIME, 1),
            (REALTIME, 2),
            (REALTIME, 3),
        ]
        with pytest.raises(BlockingIOError) as caught:
            read_signalfd(source)
        assert caught.value.errno == errno.EAGAIN


def test_readSiginfoIsTheSameByItsOtherName() -> None:
    """
    PyPI's signalfd has the other name.
    """
    assert read_siginfo is read_signalfd


def test_readWaitsForASignal() -> None:
    """
    A descriptor that blocks is read when there is a signal.
    """
    with blocked(SIGUSR1):
        made = signalfd(-1, [SIGUSR1])
        waiting = threading.Timer(0.01, os.kill, (os.getpid(), SIGUSR1))
        waiting.start()
        try:
            assert read_signalfd(made).signo == SIGUSR1
        finally:
            waiting.join()
            os.close(made)


@readable
@pytest.mark.parametrize("content", [b"", b"x", bytes(127)])
def test_pipeIsNoSignalfd(wrap: Wrap, content: bytes) -> None:
    """
    What gives no whole record, or has ended, is a ValueError.
    """
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        with pytest.raises(ValueError, match=r"record|end of file"):
            read_signalfd(wrap(reader))
    finally:
        os.close(reader)


@readable
@pytest.mark.parametrize("content", [b"", b"x", bytes(127)])
def test_regularFileIsNoSignalfd(wrap: Wrap, content: bytes, tmp_path: Path) -> None:
    """
    What gives no whole record, or has ended, is a ValueError.
    """
    path = tmp_path / "file"
    path.write_bytes(content)
    with open(path, "rb") as stream, pytest.raises(ValueError, match=r"record|end of"):
        read_signalfd(wrap(stream.fileno()))


def test_socketIsNoSignalfd() -> None:
    """
    An object with C{fileno} that has ended is a ValueError.
    """
    one, other = socket.socketpair()
    with one:
        other.close()
        with pytest.raises(ValueError, match="end of file"):
            read_signalfd(one)


def test_recordIsReadFromMemory() -> None:
    """
    Whatever has C{readinto} will do, such as a recording.
    """
    recording = io.BytesIO(struct.pack("=I124x", SIGHUP))
    assert read_signalfd(recording).name == "SIGHUP"
    with pytest.raises(ValueError, match="end of file"):
        read_signalfd(recording)


@pytest.mark.parametrize("wrap", [int, HasFileno])
def test_readOfAClosedDescriptorIsAnOSError(wrap: Wrap) -> None:
    """
    EBADF, by number and by object.
    """
    for number in (closed(), -1):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            read_signalfd(wrap(number))
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("wrap", [openRaw, openBuffered])
def test_readOfAFileWhoseDescriptorIsGoneIsAnOSError(wrap: Wrap) -> None:
    """
    EBADF, by file.
    """
    made = signalfd(-1, [SIGUSR1], SFD_NONBLOCK)
    source = wrap(made)
    os.close(made)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        read_signalfd(source)
    assert caught.value.errno == errno.EBADF


def test_readFromAClosedFileIsItsOwnError(fd: int) -> None:
    """
    The file's own ValueError is unchanged.
    """
    source = openRaw(fd)
    source.close()
    with pytest.raises(ValueError, match="closed file"):
        read_signalfd(source)


# --- sigqueue ------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, -1, 2**31 - 1, -(2**31)])
def test_sigqueueSendsAnyIntOf32Bits(fd: int, value: int) -> None:
    """
    Its value comes out as it went in.
    """
    assert sigqueue(os.getpid(), REALTIME, value) is None  # type: ignore[func-returns-value]
    assert read_signalfd(fd).value == value


def test_sigqueueSendsZeroByDefault(fd: int) -> None:
    """
    A value is not needed.
    """
    sigqueue(os.getpid(), SIGUSR1)
    assert read_signalfd(fd).value == 0


def test_sigqueueOfARealtimeSignalQueues(fd: int) -> None:
    """
    Realtime signals come in order and all of them, standard ones as one.
    """
    for value in range(100):
        sigqueue(os.getpid(), REALTIME, value)
        sigqueue(os.getpid(), SIGUSR1, value)
    values = {SIGUSR1: [0], REALTIME: list(range(100))}
    for signo, expected in values.items():
        read = [read_signalfd(fd) for _ in expected]
        assert [(info.signo, info.value) for info in read] == [
            (signo, value) for value in expected
        ]


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**32, 2**70])
def test_sigqueueRefusesWhatDoesNotFit(fd: int, value: int) -> None:
    """
    A value is never cut short, and nothing is sent.
    """
    with pytest.raises(OverflowError):
        sigqueue(os.getpid(), REALTIME, value)
    with pytest.raises(BlockingIOError):
        read_signalfd(fd)


def test_sigqueueOfZeroOnlyAsks(fd: int) -> None:
    """
    Signal 0 tells whether the process is there, and sends nothing.
    """
    sigqueue(os.getpid(), 0)
    with pytest.raises(BlockingIOError):
        read_signalfd(fd)


def test_sigqueueToNoProcessIsAProcessLookupError() -> None:
    """
    The error that C{os.kill} has, also for a child that has been waited for.
    """
    ended = subprocess.Popen(["true"])
    ended.wait()
    for signo in (0, SIGUSR1):
        with pytest.raises(ProcessLookupError) as caught:
            sigqueue(ended.pid, signo)
        assert caught.value.errno == errno.ESRCH


@pytest.mark.parametrize("signo", [65, -1, 1700])
def test_sigqueueOfNoSignalIsBothErrors(signo: int) -> None:
    """
    EINVAL is an OSError with its errno, and a ValueError.
    """
    with pytest.raises(InvalidArgument) as caught:
        sigqueue(os.getpid(), signo)
    assertBothErrors(caught.value, errno.EINVAL)


def test_sigqueueToAnothersProcessIsAPermissionError() -> None:
    """
    The error that C{os.kill} has.
    """
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else, who may not signal us")

    def asNobody() -> None:
        parent = os.getppid()
        os.setuid(pwd.getpwnam("nobody").pw_uid)
        sigqueue(parent, 0)

    with pytest.raises(PermissionError) as caught:
        inChild(asNobody)
    assert caught.value.errno == errno.EPERM


def test_sigqueueWithTheLimitUsedUpIsABlockingIOError() -> None:
    """
    RLIMIT_SIGPENDING: the sender learns that nothing was sent, and what is
    pending stays.
    """

    def fill() -> tuple[BaseException, list[int | None]]:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (1000, 1000))
        with listening(REALTIME) as fd:
            sent = 0
            with pytest.raises(BlockingIOError) as caught:
                while sent <= 1000:
                    sigqueue(os.getpid(), REALTIME, sent)
                    sent += 1
            return caught.value, [read_signalfd(fd).value for _ in range(sent)]

    error, values = inChild(fill)
    assert isinstance(error, BlockingIOError)
    assert error.errno == errno.EAGAIN
    assert values == list(range(len(values)))


# --- the module ----------------------------------------------------------------


def test_allSignalsAreThoseThatPythonNames() -> None:
    """
    Sorted, each once.
    """
    assert sorted(signal.valid_signals() & set(signal.Signals)) == lowlevel.ALL_SIGNALS


def test_whatProgramsCatchAndCompareIsThere() -> None:
    """
    The class of what is read, and PyPI's error for an errno that it has no
    words for.
    """
    assert lowlevel.SigInfo is SigInfo
    with pytest.raises(lowlevel.UnknownError):
        sigqueue(os.getpid(), 1700)


def test_siginfoSizeIsThatOfARecord(fd: int) -> None:
    """
    128 bytes, as one read gives.
    """
    os.kill(os.getpid(), SIGUSR1)
    assert len(os.read(fd, 1000)) == lowlevel.SIGINFO_SIZE == 128


def test_everythingPublicIsThere() -> None:
    """
    C{from txsignalfd.lowlevel import *} gives what is documented.
    """
    exported: dict[str, object] = {}
    exec("from txsignalfd.lowlevel import *", exported)
    assert exported.keys() - {"__builtins__"} == set(lowlevel.__all__)


#: The program of 2011, with another import and with brackets for print.
PROGRAM = Path(__file__).parent.parent / "examples" / "every_signal.py"


@pytest.mark.skipif(not PROGRAM.exists(), reason="there are no examples beside us")
def test_sampleProgramOf2011Runs() -> None:
    """
    A program of then receives every signal, and ends by SIGKILL only.
    """
    program = subprocess.Popen(
        [sys.executable, "-u", "-W", "error", str(PROGRAM)],
        bufsize=0,
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None

    def nextLine() -> str:
        assert program.stdout is not None
        waitFor(program.stdout.fileno())
        return program.stdout.readline().decode().rstrip("\n")

    try:
        assert nextLine().startswith("Capturing: [")
        assert nextLine() == f"selecting - pid: {program.pid}"
        by = f"from pid {os.getpid()} (uid {os.getuid()}) by"
        for signo in sorted(signal.Signals):
            if signo in (SIGKILL, SIGSTOP):
                continue
            program.send_signal(signo)
            assert nextLine() == f"{signo.name} {by} kill"
            assert nextLine() == f"selecting - pid: {program.pid}"
        sigqueue(program.pid, SIGUSR1, 42)
        claim = by.replace(")", ", it says)")
        assert nextLine() == f"SIGUSR1 {claim} sigqueue, value 42"
        assert program.poll() is None
    finally:
        program.kill()
        program.stdout.close()
        assert program.wait() == -SIGKILL
