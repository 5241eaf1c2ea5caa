"""
L{txsignalfd.siginfo}: what an operator and a program learn from a signal.

Most signals are read from a real signalfd.  Those that a test cannot cause are forged
with rt_sigqueueinfo(2), and the rest are records built by hand.
"""

from __future__ import annotations

import copy
import fcntl
import os
import pickle
import re
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import (
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGIO,
    SIGRTMAX,
    SIGRTMIN,
    SIGSYS,
    SIGUSR1,
    Signals,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel import (
    forge,
    forked,
    inChild,
    listening,
    nextSignal,
    posixTimer,
)
from tests.support.records import FIELDS, record
from txsignalfd import lowlevel
from txsignalfd._native.names import signalName, signalNumber
from txsignalfd.siginfo import Child, Sender, SigInfo, describe, parse

#: The events of poll(2) that F_SETSIG reports with POLL_IN.
READABLE = 0x41

DERIVED = {"signal", "name", "codeName", "sender", "child", "value", "vouched"}


def me(vouched: bool = True) -> Sender:
    """
    Return this process as a sender.
    """
    return Sender(os.getpid(), os.getuid(), vouched)


def byMe() -> str:
    """
    Return how a line names this process.
    """
    return f"from pid {os.getpid()} (uid {os.getuid()}) by"


def info(signo: int = SIGHUP, **fields: int) -> SigInfo:
    """
    Parse a record with these fields.
    """
    (parsed,) = parse(record(signo, **fields))
    return parsed


def meaningOf(received: SigInfo) -> tuple[object, ...]:
    """
    Return everything that a signal means.
    """
    return (
        received.codeName,
        received.sender,
        received.child,
        received.value,
        str(received),
    )


def nonZeroFields(received: SigInfo, *names: str) -> dict[str, object]:
    """
    Return the fields that are not 0 and those that are named, without signo and code.
    """
    fields = {name: getattr(received, name) for name in FIELDS}
    return {
        name: value
        for name, value in fields.items()
        if name in names or (value and name not in ("signo", "code"))
    }


# --- signals from the kernel ---------------------------------------------


def sendToThread(signo: int) -> None:
    signal.pthread_kill(threading.get_ident(), signo)


def sendPidfd(signo: int) -> None:
    fd = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(fd, signo)
    finally:
        os.close(fd)


@forked
@pytest.mark.parametrize("signo", [SIGUSR1, SIGCHLD, SIGRTMIN + 3])
@pytest.mark.parametrize(
    ("send", "code", "how"),
    [
        (lambda signo: os.kill(os.getpid(), signo), "SI_USER", "kill"),
        (sendPidfd, "SI_USER", "kill"),
        (signal.raise_signal, "SI_TKILL", "tgkill"),
        (sendToThread, "SI_TKILL", "tgkill"),
    ],
    ids=["kill", "pidfd", "raise", "pthread_kill"],
)
def test_senderByKillIsVouchedFor(
    send: Callable[[int], None], code: str, how: str, signo: int
) -> None:
    """
    The kernel vouches for the sender of kill(2); a SIGCHLD from it reports no child.
    """
    with listening(signo) as fd:
        send(signo)
        received = nextSignal(fd)
    assert nonZeroFields(received, "uid") == {"pid": os.getpid(), "uid": os.getuid()}
    line = f"{signalName(signo)} {byMe()} {how}"
    assert meaningOf(received) == (code, me(), None, None, line)


@forked
@pytest.mark.parametrize("value", [0, 7, -7, 2**31 - 1, -(2**31)])
def test_sigqueueHasAValueAndAClaimedSender(value: int) -> None:
    """
    The int arrives as it was sent, and the sender is a claim.
    """
    with listening(SIGUSR1) as fd:
        lowlevel.sigqueue(os.getpid(), SIGUSR1, value)
        received = nextSignal(fd)
    assert nonZeroFields(received, "uid", "int", "ptr") == {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "int": value,
        "ptr": value % 2**32 if sys.byteorder == "little" else received.ptr,
    }
    line = f"SIGUSR1 claims to come {byMe()} sigqueue, value {value}"
    assert meaningOf(received) == ("SI_QUEUE", me(vouched=False), None, value, line)


@forked
def test_posixTimerHasAnOverrunAndNoSender() -> None:
    """
    The timer's number, its overrun and its value are shown.
    """
    with (
        listening(SIGUSR1) as fd,
        listening(signal.SIGALRM) as later,
        posixTimer(SIGUSR1, -7, 0.001) as number,
    ):
        # Long enough for the timer to run out more than once.
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        nextSignal(later)
        received = nextSignal(fd)
        assert received.overrun > 0
        assert nonZeroFields(received, "tid") == {
            "tid": number,
            "overrun": received.overrun,
            "int": -7,
            "ptr": received.ptr,
        }
        line = (
            f"SIGUSR1 claims to come from POSIX timer {number},"
            f" overrun {received.overrun}, value -7"
        )
        assert meaningOf(received) == ("SI_TIMER", None, None, None, line)


@forked
def test_alarmComesFromTheKernel() -> None:
    with listening(signal.SIGALRM) as fd:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        received = nextSignal(fd)
    assert nonZeroFields(received, "pid", "uid") == {"pid": 0, "uid": 0}
    line = "SIGALRM from the kernel"
    assert meaningOf(received) == ("SI_KERNEL", None, None, None, line)


@forked
@pytest.mark.parametrize(
    ("signo", "code"),
    [
        (SIGIO, "POLL_IN"),
        (SIGUSR1, "POLL_IN"),
        (SIGRTMIN + 2, "POLL_IN"),
        # Signals with codes of their own have this code instead.
        (SIGCHLD, "SI_SIGIO"),
        (SIGSYS, "SI_SIGIO"),
    ],
)
def test_readyDescriptorIsNamed(signo: int, code: str) -> None:
    """
    With F_SETSIG (fcntl(2)) any signal reports the descriptor and its events.
    """
    reader, writer = os.pipe()
    with listening(signo) as fd:
        fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(reader, fcntl.F_SETSIG, signo)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writer, b"x")
        received = nextSignal(fd)
        os.close(reader)
        os.close(writer)
    assert nonZeroFields(received) == {"fd": reader, "band": READABLE}
    name = signalName(signo)
    origin = "claims that" if code == "SI_SIGIO" else "from the kernel:"
    line = f"{name} {origin} descriptor {reader} is ready ({code})"
    assert meaningOf(received) == (code, None, None, None, line)


def childOf(received: SigInfo) -> Child:
    """
    Return the child that a signal reports.
    """
    assert received.child is not None
    assert received.sender is None
    assert received.value is None
    assert received.uid == os.getuid()
    return received.child


@forked
def test_exitedChildIsReported() -> None:
    """
    The exit code and the CPU time are reported.
    """
    busy = "import sys, time\nwhile time.process_time() < 0.5: pass\nsys.exit(7)"
    with listening(SIGCHLD) as fd:
        child = subprocess.Popen([sys.executable, "-c", busy])
        received = nextSignal(fd)
        assert child.wait() == 7
    assert received.codeName == "CLD_EXITED"
    reported = childOf(received)
    assert reported[:4] == (child.pid, 7, None, False)
    # The kernel samples the running process at each clock tick, which on a busy
    # machine may nearly always be another one.
    assert 0 < reported.userTime + reported.systemTime < 10
    line = f"SIGCHLD from the kernel: child {child.pid} exited with status 7"
    assert str(received) == line


@forked
def test_stoppedContinuedAndKilledChildIsReported() -> None:
    with listening(SIGCHLD) as fd:
        child = subprocess.Popen(["sleep", "60"])
        for sent, code, did in [
            (signal.SIGSTOP, "CLD_STOPPED", "was stopped by"),
            (signal.SIGCONT, "CLD_CONTINUED", "was continued by"),
            (signal.SIGKILL, "CLD_KILLED", "was killed by"),
        ]:
            child.send_signal(sent)
            received = nextSignal(fd)
            assert received.codeName == code
            assert childOf(received)[:4] == (child.pid, None, sent, False)
            line = f"SIGCHLD from the kernel: child {child.pid} {did} {sent.name}"
            assert str(received) == line
        child.wait()


@forked
def test_coreDumpIsReported(tmp_path: Path) -> None:
    """
    A core dump is reported if wait(2) reports one.
    """
    with listening(SIGCHLD) as fd:
        child = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.prlimit(child.pid, resource.RLIMIT_CORE, (hard, hard))
        child.send_signal(signal.SIGABRT)
        received = nextSignal(fd)
        _, status = os.waitpid(child.pid, 0)
        child.returncode = -signal.SIGABRT
    reported = childOf(received)
    assert reported[:3] == (child.pid, None, signal.SIGABRT)
    assert reported.coreDumped == os.WCOREDUMP(status)
    assert received.codeName == ("CLD_DUMPED" if reported.coreDumped else "CLD_KILLED")


@forked
@pytest.mark.parametrize(
    ("code", "name", "exitCode", "by", "did"),
    [
        (1, "CLD_EXITED", 11, None, "exited with status 11"),
        (2, "CLD_KILLED", None, 11, "was killed by SIGSEGV"),
        (3, "CLD_DUMPED", None, 11, "dumped core on SIGSEGV"),
        (4, "CLD_TRAPPED", None, 11, "was trapped by SIGSEGV"),
        (5, "CLD_STOPPED", None, 11, "was stopped by SIGSEGV"),
        (6, "CLD_CONTINUED", None, 11, "was continued by SIGSEGV"),
    ],
)
def test_everyChangeOfAChildIsReported(
    code: int, name: str, exitCode: int | None, by: int | None, did: str
) -> None:
    """
    The CPU times are in seconds.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    fields = struct.pack("=IIixxxxQQ", 77, 1000, 11, 5 * ticks // 2, 3 * ticks)
    with listening(SIGCHLD) as fd:
        forge(SIGCHLD, code, fields)
        received = nextSignal(fd)
    child = Child(77, exitCode, by, code == 3, 2.5, 3.0)
    line = f"SIGCHLD from the kernel: child 77 {did}"
    assert meaningOf(received) == (name, None, child, None, line)


@forked
@pytest.mark.parametrize(
    ("code", "name", "how"),
    [(-3, "SI_MESGQ", "a message queue"), (-4, "SI_ASYNCIO", "asynchronous I/O")],
)
def test_messageQueueAndAsynchronousIOHaveAClaimedSender(
    code: int, name: str, how: str
) -> None:
    """
    Their data is not a value of sigqueue(3).
    """
    with listening(SIGUSR1) as fd:
        forge(SIGUSR1, code, struct.pack("=IIQ", 77, 1000, 9))
        received = nextSignal(fd)
    assert nonZeroFields(received) == {"pid": 77, "uid": 1000, "int": 9, "ptr": 9}
    line = f"SIGUSR1 claims to come from pid 77 (uid 1000) by {how}"
    sender = Sender(77, 1000, vouched=False)
    assert meaningOf(received) == (name, sender, None, None, line)


@forked
@pytest.mark.parametrize("signo", [SIGHUP, SIGCHLD, SIGIO, SIGRTMIN + 1])
@pytest.mark.parametrize("code", [99, 200, 2**31 - 1, -100, -(2**31)])
def test_unknownCodeIsShownAsANumber(signo: int, code: int) -> None:
    """
    Codes of future kernels name no sender.
    """
    with listening(signo) as fd:
        forge(signo, code, struct.pack("=IIQ", 77, 1000, 9))
        received = nextSignal(fd)
    assert received.code == code
    line = f"{signalName(signo)} {'claims' if code < 0 else 'with'} code {code}"
    assert meaningOf(received) == (str(code), None, None, None, line)


@forked
def test_refusedSystemCallIsReported() -> None:
    """
    SIGSYS reports the system call and the architecture, and no descriptor.
    """
    with listening(SIGSYS) as fd:
        forge(SIGSYS, 1, struct.pack("=QiI", 0xDEAD, 41, 0xC000003E))
        received = nextSignal(fd)
    assert nonZeroFields(received) == {
        "syscall": 41,
        "call_addr": 0xDEAD,
        "arch": 0xC000003E,
    }
    line = "SIGSYS with code SYS_SECCOMP"
    assert meaningOf(received) == ("SYS_SECCOMP", None, None, None, line)


@pytest.mark.parametrize("code", [2, 6])
def test_unknownCodeOfSigsysReportsNoDescriptor(code: int) -> None:
    received = info(SIGSYS, code=code)
    assert meaningOf(received)[:4] == (str(code), None, None, None)


@forked
@pytest.mark.parametrize(
    ("signo", "code", "name"),
    [
        (signal.SIGSEGV, 1, "SEGV_MAPERR"),
        (signal.SIGBUS, 2, "BUS_ADRERR"),
        (signal.SIGFPE, 1, "FPE_INTDIV"),
        (signal.SIGILL, 1, "ILL_ILLOPC"),
    ],
)
def test_faultHasAnAddress(signo: int, code: int, name: str) -> None:
    with listening(signo) as fd:
        forge(signo, code, struct.pack("=Q", 0xDEAD000))
        received = nextSignal(fd)
    assert received.addr == 0xDEAD000
    line = f"{signalName(signo)} with code {name}"
    assert meaningOf(received) == (name, None, None, None, line)


@forked
def test_signalOverTheLimitHasNoSender() -> None:
    """
    At RLIMIT_SIGPENDING the kernel drops the siginfo, and vouches for no sender.
    """

    def overLimit() -> tuple[object, ...]:
        resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
        with listening(SIGUSR1) as fd:
            lowlevel.sigqueue(os.getpid(), SIGUSR1, 7)
            return meaningOf(nextSignal(fd))

    line = "SIGUSR1 from a process unknown here (uid 0) by kill"
    sender = Sender(0, 0, vouched=False)
    assert inChild(overLimit) == ("SI_USER", sender, None, None, line)


def forgeEachCode(signo: int, pid: int) -> Iterator[tuple[int, bool]]:
    """
    Send a process a signal with every code, and report whether the kernel allows it.
    """
    for code in (*range(-70, 10), 127, 128, 129, 2**31 - 1, -(2**31)):
        try:
            forge(signo, code, pid=pid)
        except PermissionError:
            yield code, False
        else:
            yield code, True


@forked
@pytest.mark.parametrize("signo", [SIGHUP, SIGCHLD, SIGIO, SIGSYS, SIGRTMIN + 1])
def test_forgedCodeIsAClaim(signo: int) -> None:
    """
    The kernel vouches for exactly those codes that other processes cannot send.
    """
    pid, allowed = os.getpid(), set()
    with listening(signo) as fd:
        for code, isAllowed in inChild(lambda: list(forgeEachCode(SIGCONT, pid))):
            if isAllowed:
                allowed.add(code)
            received = info(signo, code=code)
            assert received.vouched is not isAllowed
            assert (" claims " in str(received)) is isAllowed
        signal.sigtimedwait([signo], 0)  # the end of the child, if it is SIGCHLD
        inChild(lambda: forge(signo, -5, struct.pack("=qi", 1, 3), pid))
        received = nextSignal(fd)
    assert allowed == {code for code in allowed if code < 0 and code != -6}
    line = f"{signalName(signo)} claims that descriptor 3 is ready (SI_SIGIO)"
    assert str(received) == line


# --- names ---------------------------------------------------------------------


#: Numbers and the names that kill(1) uses, if there is a signal.
NAMES = (
    "1=SIGHUP 17=SIGCHLD 29=SIGIO 34=SIGRTMIN 35=SIGRTMIN+1 37=SIGRTMIN+3"
    " 63=SIGRTMIN+29 64=SIGRTMAX 32=32 33=33 0=0 65=65 -1=-1 4294967295=4294967295"
)


@pytest.mark.parametrize("pair", NAMES.split())
def test_signalHasTheNameThatKillUses(pair: str) -> None:
    """
    Realtime signals have names, too; a number without a signal is shown as it is.
    """
    signo, _, name = pair.partition("=")
    assert signalName(int(signo)) == name


#: Usual names of signals, and their numbers.
USUAL = (
    "HUP=1 SIGHUP=1 hup=1 sighup=1 SigUsr1=10 USR2=12 CLD=17 POLL=29 15=15 32=32 64=64"
    " RTMIN=34 SIGRTMIN+3=37 rtmin+0=34 RTMIN+30=64 RTMAX=64 RTMAX-2=62 sigrtmax-30=34"
)


@pytest.mark.parametrize("pair", USUAL.split())
def test_signalIsFoundByAnyUsualName(pair: str) -> None:
    """
    SIG is optional, and numbers and any case are accepted.
    """
    name, _, signo = pair.partition("=")
    assert signalNumber(name) == int(signo)


#: Texts that name no signal, besides those with white space.
UNKNOWN = (
    "SIG NOPE SIGSIGHUP SIG_DFL SIG1 DFL BLOCK 0 65 -1 +15 1.0 1e1 0x1 HUP+1 RTMIN+"
    " RTMIN-1 RTMIN+31 RTMAX+1 RTMAX-31 RTMIN3 RTMIN+3+1 RTMIN+\u0661 \u00b2"
)


@pytest.mark.parametrize("name", ["", " HUP", "HUP\n", "15\n", *UNKNOWN.split()])
def test_unknownNameIsInTheError(name: str) -> None:
    message = re.escape(f"there is no signal {name!r}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        signalNumber(name)


def test_everySignalIsFoundByItsOwnName() -> None:
    for signo in range(1, 65):
        assert signalNumber(signalName(signo)) == signo
    for member in Signals.__members__:
        assert signalNumber(member) == Signals[member]


def test_signalIsAMemberOfPythonsEnumeration() -> None:
    assert info(SIGHUP).signal is Signals.SIGHUP
    assert info(SIGRTMAX).signal is Signals.SIGRTMAX
    realtime = info(SIGRTMIN + 3)
    assert (realtime.signal, type(realtime.signal)) == (37, int)
    assert realtime.name == "SIGRTMIN+3"
    child = info(SIGCHLD, code=2, status=SIGRTMIN + 3).child
    assert child is not None
    assert (child.signal, type(child.signal)) == (37, int)


# --- the line for an operator --------------------------------------------------


def test_lineNamesTheSender() -> None:
    received = info(SIGHUP, pid=4242, uid=1000)
    assert str(received) == "SIGHUP from pid 4242 (uid 1000) by kill"
    assert f"{received}" == describe(received)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "SIGHUP from a process unknown here (init, uid 0) by kill"),
        ({"pid": 42, "uid": 5}, "SIGHUP from pid 42 (init, uid 5) by kill"),
        (
            {"pid": 42, "uid": 5, "code": -1, "int": -3},
            "SIGHUP claims to come from pid 42 (init, uid 5) by sigqueue, value -3",
        ),
        ({"pid": 42, "uid": 5, "code": 128}, "SIGHUP from the kernel"),
    ],
)
def test_lineNamesTheCommand(fields: dict[str, int], line: str) -> None:
    assert describe(info(**fields), "init") == line


# --- SigInfo -------------------------------------------------------------------


def test_siginfoIsImmutable() -> None:
    received = info(pid=7)
    before = hash(received), repr(received)
    for name in (*FIELDS, *DERIVED, "ssi_pid", "something"):
        with pytest.raises(AttributeError):
            setattr(received, name, 1)
        with pytest.raises(AttributeError):
            delattr(received, name)
    assert (hash(received), repr(received)) == before


def test_reprShowsTheNonZeroFields() -> None:
    received = info(SIGRTMIN + 3, code=-1, pid=42, uid=5, int=-3)
    assert repr(received) == "<SigInfo SIGRTMIN+3 signo=37 code=-1 pid=42 uid=5 int=-3>"
    assert repr(info()) == "<SigInfo SIGHUP signo=1>"
    assert repr(info(65)) == "<SigInfo 65 signo=65>"


@pytest.mark.parametrize(
    "again", [copy.copy, lambda value: pickle.loads(pickle.dumps(value))]
)
def test_siginfoCanBeCopiedAndPickled(again: Callable[[SigInfo], SigInfo]) -> None:
    (received,) = parse(bytes(range(128)))
    other = again(received)
    assert type(other) is SigInfo
    assert meaningOf(other) == meaningOf(received)
    assert repr(other) == repr(received)


def test_siginfoHasNoDictionary() -> None:
    assert not hasattr(info(), "__dict__")


records = st.binary(min_size=128, max_size=128)


@given(records)
def test_everyRecordCanBeRead(data: bytes) -> None:
    (received,) = parse(data)
    public = {name for name in dir(received) if not name.startswith("_")}
    both = FIELDS.keys() | {f"ssi_{name}" for name in FIELDS}
    assert public - {"make"} == both | DERIVED
    assert isinstance(received.codeName, str)
    for answer, kind in (
        (received.sender, Sender),
        (received.child, Child),
        (received.value, int),
    ):
        assert answer is None or isinstance(answer, kind)
    assert received.signal == received.signo
    assert str(received).startswith(received.name)
    assert repr(received).startswith(f"<SigInfo {received.name} ")


@given(st.integers(1, 64), st.integers(-7, 8) | st.integers(126, 130), records)
def test_everyKnownCodeCanBeRead(signo: int, code: int, data: bytes) -> None:
    (received,) = parse(struct.pack("=Iii", signo, 0, code) + data[12:])
    assert str(received) == describe(received)
    assert received.sender is None or received.child is None
    assert (received.child is not None) == (signo == SIGCHLD and 1 <= code <= 6)
    assert (received.value is not None) == (code == -1)
    assert (received.sender is not None) == (code in (0, -1, -3, -4, -6))


# --- SigInfo.make


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "signo"])
def test_makeSetsTheFields(name: str) -> None:
    info = SigInfo.make(SIGHUP, **{"code": 0, name: 7})
    assert [each for each in FIELDS if getattr(info, each)] == ["signo", name]
    assert getattr(info, name) == 7


@forked
def test_madeSignalEqualsAReceivedOne() -> None:
    with listening(SIGUSR1) as fd:
        os.kill(os.getpid(), SIGUSR1)
        info = nextSignal(fd)
    assert SigInfo.make(SIGUSR1, pid=os.getpid(), uid=os.getuid()) == info
    made = SigInfo.make(SIGHUP, pid=4242, uid=1000)
    assert str(made) == "SIGHUP from pid 4242 (uid 1000) by kill"
    assert SigInfo.make(SIGRTMIN, "SI_QUEUE", int=-5).value == -5
    assert SigInfo.make(SIGRTMIN, -1, int=-5).value == -5
    child = SigInfo.make(SIGCHLD, "CLD_KILLED", pid=7, status=9).child
    assert child
    assert (child.pid, child.signal) == (7, signal.SIGKILL)


def test_makeRefusesUnknownFieldsAndCodes() -> None:
    with pytest.raises(
        TypeError, match="unknown field 'sender'; the fields are signo, errno"
    ):
        SigInfo.make(SIGHUP, sender=1)
    with pytest.raises(ValueError, match="no code 'SI_NONE' on this system"):
        SigInfo.make(SIGHUP, "SI_NONE")
    with pytest.raises(ValueError, match="pid cannot be -1"):
        SigInfo.make(SIGHUP, pid=-1)
    with pytest.raises(ValueError, match="signo cannot be 'HUP'"):
        SigInfo.make("HUP")  # type: ignore[arg-type]
