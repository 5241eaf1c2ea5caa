"""
L{txsignalfd.lowlevel}: the calls of signalfd(2), for programs of other modules.
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
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGRTMIN, SIGSTOP, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from tests.support.files import HasFileno, openBuffered, openRaw
from tests.support.kernel import (
    blocked,
    checked,
    forked,
    inChild,
    libc,
    listening,
    refuseSignalfd,
    systemCall,
    waitUntilReadable,
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

#: Numbers that the C library refuses; it uses 32 and 33 itself.
INVALID_SIGNALS = [-2, -1, 0, 32, 33, 65, 1700, 2**31, -(2**31) - 1, 2**70]

NOT_INTEGERS: list[Any] = ["HUP", b"1", 1.0, None, object(), [1]]


class IsIndex:
    """
    An integer type of another library.
    """

    def __index__(self) -> int:
        """
        Return the number.
        """
        return int(SIGUSR1)


@pytest.fixture(autouse=True)
def nothingBlocked() -> Iterator[None]:
    """
    Start each test without blocked signals, and restore the mask afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def fd() -> Iterator[int]:
    """
    A non-blocking signalfd for SIGUSR1, SIGUSR2 and a realtime signal.
    """
    with listening(SIGUSR1, SIGUSR2, REALTIME) as opened:
        yield opened


def mask() -> set[int]:
    """
    Return the signals that this thread blocks, as Python reports them.
    """
    return {int(signo) for signo in signal.pthread_sigmask(signal.SIG_BLOCK, [])}


def signalsOf(fd: int) -> set[int]:
    """
    Return the signals of a signalfd, as the kernel reports them.
    """
    fields = dict(
        line.split(":\t")
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").splitlines()
    )
    bits = int(fields["sigmask"], 16)
    return {signo for signo in range(1, 65) if bits & (1 << (signo - 1))}


def closedDescriptor() -> int:
    """
    Return the number of a closed descriptor.
    """
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return reader


# --- arguments -------------------------------------


def block(signals: Iterable[int]) -> object:
    """
    Call C{sigprocmask} with only a list of signals.
    """
    return sigprocmask(SIG_BLOCK, signals)


def openDescriptor(signals: Iterable[int]) -> object:
    """
    Call C{signalfd} with only a list of signals.
    """
    return signalfd(-1, signals)


takingSignals = pytest.mark.parametrize(
    "call", [block, openDescriptor, create_signalfd], ids=lambda call: call.__name__
)
Call = Callable[[Any], object]


@takingSignals
def test_numberOutOfRangeIsAValueError(call: Call) -> None:
    """
    The error is that of python-signalfd, and the mask is unchanged.
    """
    for signo in INVALID_SIGNALS:
        message = rf"^signal number {signo} out of range$"
        with pytest.raises(ValueError, match=message):
            call([SIGUSR1, signo])
        assert mask() == set()


@takingSignals
def test_signalThatIsNotAnIntegerIsATypeError(call: Call) -> None:
    for value in NOT_INTEGERS:
        with pytest.raises(TypeError, match=r"^an integer is required$"):
            call([SIGUSR1, value])
        assert mask() == set()


@takingSignals
def test_singleNumberIsNotAListOfSignals(call: Call) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        call(SIGUSR1)


class OwnError(Exception):
    """
    An exception of the caller's iterable.
    """


@takingSignals
@pytest.mark.parametrize(
    "error", [OwnError("mine"), TypeError("mine"), OSError("mine")]
)
def test_exceptionOfTheIterablePropagates(call: Call, error: Exception) -> None:
    """
    The same exception is raised, and the mask is unchanged.
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
def test_otherArgumentsMustBeIntegers(call: Call) -> None:
    """
    A text, a float or None is a TypeError for each argument.
    """
    for value in NOT_INTEGERS:
        with pytest.raises(TypeError, match=r"^an integer is required$"):
            call(value)
        assert mask() == set()


@takingSignals
def test_anyIterableOfIntegersIsAccepted(call: Call) -> None:
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


def test_sigprocmaskReturnsThePreviousMask() -> None:
    assert sigprocmask(SIG_BLOCK, [REALTIME, SIGUSR1]) == []
    assert sigprocmask(SIG_BLOCK, [SIGHUP]) == [SIGUSR1, REALTIME]
    assert sigprocmask(SIG_UNBLOCK, [SIGUSR1]) == [SIGHUP, SIGUSR1, REALTIME]
    assert sigprocmask(SIG_SETMASK, [SIGUSR2, 64]) == [SIGHUP, REALTIME]
    before = sigprocmask(SIG_SETMASK, [])
    assert before == [SIGUSR2, 64]
    assert {type(signo) for signo in before} == {int}
    assert mask() == set()


def test_sigprocmaskChangesOnlyItsThread() -> None:
    """
    A thread inherits the mask of the thread that starts it.
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
def test_sigprocmaskIgnoresSignalsThatCannotBeBlocked(signo: int) -> None:
    sigprocmask(SIG_BLOCK, [signo, SIGUSR1])
    assert sigprocmask(SIG_BLOCK, []) == [SIGUSR1]


@pytest.mark.parametrize("how", [1700, -1, 3])
def test_sigprocmaskRefusesAnUnknownHow(how: int) -> None:
    message = re.escape(f"value specified for how ({how}) invalid")
    with pytest.raises(ValueError, match=f"^{message}$"):
        sigprocmask(how, [SIGUSR1])
    assert mask() == set()


def blockSignal32() -> None:
    """
    Block signal 32, which the C library refuses to block.

    A process may inherit such a mask from a program without the C library.
    """
    bits = ctypes.c_char_p(struct.pack("=Q", 1 << 31))
    checked(libc.syscall(systemCall("rt_sigprocmask"), SIG_BLOCK, bits, None, 8))


def test_sigprocmaskResultCanBeSetAgain() -> None:
    systemCall("rt_sigprocmask")

    def undo() -> set[int]:
        blockSignal32()
        before = sigprocmask(SIG_BLOCK, [SIGUSR1])
        sigprocmask(SIG_SETMASK, before)
        return mask() & {SIGUSR1}

    assert inChild(undo) == set()


# --- signalfd ------------------------------------------------------------------


@pytest.mark.parametrize("create", [lambda *a: signalfd(-1, *a), create_signalfd])
@pytest.mark.parametrize(
    "flags", [0, SFD_CLOEXEC, SFD_NONBLOCK, SFD_CLOEXEC | SFD_NONBLOCK]
)
def test_flagsSetBlockingAndInheritance(create: Callable[..., int], flags: int) -> None:
    """
    Without flags, the descriptor is blocking and inheritable.
    """
    made = create([SIGUSR1], flags) if flags else create([SIGUSR1])
    try:
        assert os.get_inheritable(made) == (not flags & SFD_CLOEXEC)
        assert os.get_blocking(made) == (not flags & SFD_NONBLOCK)
        assert signalsOf(made) == {SIGUSR1}
    finally:
        os.close(made)


def test_signalfdDoesNotChangeTheMask() -> None:
    made = signalfd(-1, [SIGUSR1, REALTIME])
    os.close(made)
    assert mask() == set()


@pytest.mark.parametrize("signals", [[], [SIGUSR1], range(1, 32), [34, 64]])
def test_signalfdReceivesTheGivenSignals(signals: Iterable[int]) -> None:
    made = signalfd(-1, signals)
    try:
        assert signalsOf(made) == set(signals) - {SIGKILL, SIGSTOP}
    finally:
        os.close(made)


@forked
@pytest.mark.parametrize("wrap", [int, HasFileno])
def test_signalsOfADescriptorCanBeChanged(fd: int, wrap: Callable[[int], Any]) -> None:
    """
    An existing descriptor, as a number or an object, keeps its flags.
    """
    assert signalfd(wrap(fd), [REALTIME], 0) == fd
    assert signalsOf(fd) == {REALTIME}
    assert os.get_blocking(fd) is False
    assert os.get_inheritable(fd) is False
    os.kill(os.getpid(), SIGUSR1)
    with pytest.raises(BlockingIOError):
        read_signalfd(fd)
    assert signalfd(wrap(fd), [SIGUSR1]) == fd
    assert read_signalfd(fd).signo == SIGUSR1


def test_wrongDescriptorIsAnOSErrorAndAValueError() -> None:
    """
    Of another file, or closed.
    """
    with open("/dev/null", "rb") as other:
        for number, error in (
            (other.fileno(), errno.EINVAL),
            (closedDescriptor(), errno.EBADF),
            (-2, errno.EBADF),
        ):
            with pytest.raises(InvalidArgument) as caught:
                signalfd(number, [SIGUSR1])
            assertBothErrors(caught.value, error)


@pytest.mark.parametrize("flags", [1, -1, 1 << 20])
def test_unknownFlagsAreAnOSErrorAndAValueError(flags: int) -> None:
    for call in (openWithFlags, create_signalfd):
        with pytest.raises(InvalidArgument) as caught:
            call([SIGUSR1], flags)
        assertBothErrors(caught.value, errno.EINVAL)
        assert mask() == set()


def openWithFlags(signals: Iterable[int], flags: int) -> int:
    """
    Call C{signalfd} with the arguments of C{create_signalfd}.
    """
    return signalfd(-1, signals, flags)


def assertBothErrors(error: BaseException, number: int) -> None:
    """
    Check that an error is an OSError with this errno and a ValueError, also after
    pickling.
    """
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(found, OSError)
        assert isinstance(found, ValueError)
        assert found.errno == number
        assert os.strerror(number) in str(found)


@forked
def test_numberTooLargeForTheSystemIsAnOverflowError() -> None:
    for number in (2**31, -(2**31) - 1, 2**40, 2**70):
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


@forked
def test_createSignalfdBlocksAndReceives() -> None:
    sigprocmask(SIG_BLOCK, [SIGHUP])
    signals = [SIGKILL, SIGUSR1, SIGSTOP, REALTIME]
    made = create_signalfd(signo for signo in signals)
    try:
        assert signalsOf(made) == {SIGUSR1, REALTIME}
        assert mask() == {SIGHUP, SIGUSR1, REALTIME}
        os.kill(os.getpid(), SIGUSR1)
        assert read_signalfd(made).signo == SIGUSR1
    finally:
        os.close(made)


def failWithoutDescriptors(
    signals: Callable[[], Iterable[int]], before: Iterable[int]
) -> tuple[BaseException, set[int]]:
    """
    Return the error of C{create_signalfd} without free descriptors, and the mask after
    it.
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
def test_failedCreateSignalfdRestoresTheMask(
    signals: Callable[[], Iterable[int]], before: set[int]
) -> None:
    error, after = inChild(lambda: failWithoutDescriptors(signals, before))
    assert isinstance(error, OSError)
    assert not isinstance(error, ValueError)
    assert error.errno == errno.EMFILE
    assert after == before


def test_failedCreateSignalfdRestoresAnInheritedMask() -> None:
    systemCall("rt_sigprocmask")

    def fail() -> tuple[InvalidArgument, set[int]]:
        blockSignal32()
        with pytest.raises(InvalidArgument) as caught:
            create_signalfd([SIGUSR1], 1 << 20)
        return caught.value, mask() & {SIGUSR1}

    error, after = inChild(fail)
    assertBothErrors(error, errno.EINVAL)
    assert after == set()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_missingSignalfdIsNamedInTheError(number: int) -> None:
    """
    The error names the kernel and the sandbox as causes, and the mask is unchanged.
    """
    systemCall("signalfd4")

    def fail() -> tuple[list[BaseException], set[int]]:
        refuseSignalfd(number)
        errors: list[BaseException] = []
        for call in (openDescriptor, create_signalfd):
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


readable = pytest.mark.parametrize("wrap", [int, HasFileno, openRaw, openBuffered])
Wrap = Callable[[int], Any]


@forked
@readable
def test_signalsAreReadFromEveryKindOfDescriptor(fd: int, wrap: Wrap) -> None:
    """
    Signals are read one by one, in order, until BlockingIOError; later ones can be read
    again.
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


@forked
def test_readWaitsForASignal() -> None:
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
def test_readingAPipeIsAValueError(wrap: Wrap, content: bytes) -> None:
    """
    End of file and less than a record are reported.
    """
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    try:
        with pytest.raises(ValueError, match=r"record|end of file"):
            read_signalfd(wrap(reader))
    finally:
        os.close(reader)


def test_recordIsReadFromMemory() -> None:
    recording = io.BytesIO(struct.pack("=I124x", SIGHUP))
    assert read_signalfd(recording).name == "SIGHUP"
    with pytest.raises(ValueError, match="end of file"):
        read_signalfd(recording)


@pytest.mark.parametrize("wrap", [int, HasFileno])
def test_readingAClosedDescriptorIsAnOSError(wrap: Wrap) -> None:
    for number in (closedDescriptor(), -1):
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
            read_signalfd(wrap(number))
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("wrap", [openRaw, openBuffered])
def test_readingAFileWithAClosedDescriptorIsAnOSError(wrap: Wrap) -> None:
    made = signalfd(-1, [SIGUSR1], SFD_NONBLOCK)
    source = wrap(made)
    os.close(made)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)) as caught:
        read_signalfd(source)
    assert caught.value.errno == errno.EBADF


@forked
def test_readingAClosedFileIsTheFilesError(fd: int) -> None:
    source = openRaw(fd)
    source.close()
    with pytest.raises(ValueError, match="closed file"):
        read_signalfd(source)


# --- sigqueue ------------------------------------------------------------------


@forked
def test_sigqueueSendsZeroByDefault(fd: int) -> None:
    assert sigqueue(os.getpid(), SIGUSR1) is None  # type: ignore[func-returns-value]
    assert read_signalfd(fd).value == 0


def test_sigqueueToAnEndedProcessIsAProcessLookupError() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for signo in (0, SIGUSR1):
        with pytest.raises(ProcessLookupError) as caught:
            sigqueue(ended.pid, signo)
        assert caught.value.errno == errno.ESRCH


@forked
@pytest.mark.parametrize("signo", [65, -1, 1700])
def test_sigqueueOfAnInvalidSignalIsAnOSErrorAndAValueError(signo: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        sigqueue(os.getpid(), signo)
    assertBothErrors(caught.value, errno.EINVAL)


def test_sigqueueToAnotherUsersProcessIsAPermissionError() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can change its uid to that of another user")

    def asNobody() -> None:
        parent = os.getppid()
        os.setuid(pwd.getpwnam("nobody").pw_uid)
        sigqueue(parent, 0)

    with pytest.raises(PermissionError) as caught:
        inChild(asNobody)
    assert caught.value.errno == errno.EPERM


@forked
def test_sigqueueOverTheLimitIsABlockingIOError() -> None:
    """
    At RLIMIT_SIGPENDING the sender gets an error, and pending signals stay.
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


def test_constantsAreThoseOfTheSignalModule() -> None:
    for name in ("SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"):
        assert getattr(lowlevel, name) == getattr(signal, name)
    assert sorted(signal.valid_signals() & set(signal.Signals)) == lowlevel.ALL_SIGNALS


@forked
def test_namesOfPyPIsModuleExist() -> None:
    assert read_siginfo is read_signalfd
    assert lowlevel.SigInfo is SigInfo
    with pytest.raises(lowlevel.UnknownError):
        sigqueue(os.getpid(), 1700)


@forked
def test_siginfoSizeIsThatOfARecord(fd: int) -> None:
    os.kill(os.getpid(), SIGUSR1)
    assert len(os.read(fd, 1000)) == lowlevel.SIGINFO_SIZE == 128


def test_importStarImportsThePublicNames() -> None:
    exported: dict[str, object] = {}
    exec("from txsignalfd.lowlevel import *", exported)
    assert exported.keys() - {"__builtins__"} == set(lowlevel.__all__)


#: The program of 2011; only its import and its print statements have changed.
PROGRAM = Path(__file__).parent.parent / "examples" / "every_signal.py"


@pytest.mark.skipif(not PROGRAM.exists(), reason="the examples are not installed")
def test_sampleProgramOf2011Runs() -> None:
    """
    The program receives every signal, until SIGKILL.
    """
    program = subprocess.Popen(
        [sys.executable, "-u", "-W", "error", str(PROGRAM)],
        bufsize=0,
        stdout=subprocess.PIPE,
    )
    assert program.stdout is not None

    def nextLine() -> str:
        assert program.stdout is not None
        waitUntilReadable(program.stdout.fileno())
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
        assert nextLine() == f"SIGUSR1 claims to come {by} sigqueue, value 42"
        assert program.poll() is None
    finally:
        program.kill()
        program.stdout.close()
        assert program.wait() == -SIGKILL
