"""
L{txsignalfd._proc.status}: what each signal does to a process.

Real processes in known states are read, and the kernel is tested for what it does.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from signal import (
    SIGCHLD,
    SIGCONT,
    SIGHUP,
    SIGINT,
    SIGKILL,
    SIGPIPE,
    SIGRTMIN,
    SIGSTOP,
    SIGTERM,
    SIGUSR1,
    SIGUSR2,
    SIGWINCH,
    SIGXFSZ,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.daemons import python, waitFor
from tests.support.kernel import CLONE_NEWPID, checked, inChild, libc, systemCall
from tests.support.statuses import C_LIBRARYS, STATUS, THREAD, statusWith, twoThreads
from txsignalfd._proc import status as procstatus
from txsignalfd._proc.status import (
    Disposition,
    Effect,
    Meaning,
    ProcessSignals,
    ProcUnavailable,
    ThreadSignals,
    atStart,
    defaultEffect,
    ofProcess,
)

NEEDED = [
    "Name",
    "State",
    "Tgid",
    "Pid",
    "Uid",
    "SigQ",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
]

CLONE_NEWNS = 0x20000
MS_PRIVATE_AND_RECURSIVE = 0x44000
NOBODY = 65534


def meaningOf(process: ProcessSignals, signo: int) -> Meaning:
    """
    Return what one signal does to a process.
    """
    (meaning,) = (item for item in process.meanings() if item.signo == signo)
    return meaning


# --- parsing


def test_statusIsParsed() -> None:
    """
    The innermost pid namespace decides whether the process is an init.
    """
    read = ThreadSignals.fromStatus(STATUS)
    assert read == ThreadSignals(
        pid=4711,
        tid=4712,
        name="ex ample:\n",
        state="sleeping",
        uid=1000,
        isInit=False,
        isKernelThread=False,
        queued=3,
        queueLimit=63304,
        pending=frozenset({SIGUSR1}),
        shared=frozenset({SIGHUP, 34}),
        blocked=frozenset({SIGHUP, SIGINT, SIGUSR1, 34}),
        ignored=frozenset({SIGPIPE, SIGXFSZ}),
        caught=frozenset({SIGINT, signal.SIGQUIT}),
    )
    assert ThreadSignals.fromStatus(statusWith("NStgid", "4711\t1")).isInit
    assert ThreadSignals.fromStatus(statusWith("Kthread", "1")).isKernelThread
    assert ThreadSignals.fromStatus(statusWith("State", "Z (zombie)")).hasEnded


def test_unlimitedQueueHasNoLimit() -> None:
    """
    The kernel writes a number with all bits set.
    """
    unlimited = ThreadSignals.fromStatus(statusWith("SigQ", f"0/{2**64 - 1}"))
    assert unlimited.queueLimit is None


def test_nameIsUnescaped() -> None:
    """
    The kernel escapes line ends and backslashes, and no other characters.
    """
    status = statusWith("Name", r"a\nb\\n\x" + "\x1b")
    assert ThreadSignals.fromStatus(status).name == "a\nb\\n\\x\x1b"


@pytest.mark.parametrize("field", NEEDED)
def test_missingLineIsNamedInTheError(field: str) -> None:
    """
    The status in gVisor has no lines about signals.
    """
    text = STATUS.replace(f"\n{field}:", "\nX:").removeprefix(
        "Name:" if field == "Name" else ""
    )
    with pytest.raises(ProcUnavailable, match=f"status: the line {field} is missing$"):
        ThreadSignals.fromStatus(text)


#: The example with one line replaced by any text.
changedLines = st.builds(statusWith, st.sampled_from(NEEDED), st.text())


@given(st.text() | changedLines)
def test_anyTextIsParsedOrRefused(text: str) -> None:
    """
    No other error is raised, whatever the kernel writes.
    """
    with suppress(ProcUnavailable):
        ProcessSignals((ThreadSignals.fromStatus(text),)).meanings()


# --- meanings


def test_meaningsOfSignals() -> None:
    process = ProcessSignals((THREAD,), frozenset({SIGPIPE}))
    default, die = Disposition.DEFAULT, Effect.DIES
    assert [meaning.signo for meaning in process.meanings()] == list(range(1, 65))
    for expected in (
        Meaning(SIGHUP, default, die, blocked=True, pending=True),
        Meaning(SIGINT, Disposition.CAUGHT, Effect.CAUGHT, blocked=True, pending=False),
        # Pending for the thread, but not for the process.
        Meaning(SIGUSR1, default, die, blocked=True, pending=False),
        Meaning(SIGKILL, default, die, blocked=False, pending=False),
        Meaning(SIGCHLD, default, Effect.IGNORED, blocked=False, pending=False),
        Meaning(
            SIGXFSZ, Disposition.IGNORED, Effect.IGNORED, blocked=False, pending=False
        ),
        Meaning(
            SIGPIPE, Disposition.UNKNOWN, Effect.UNKNOWN, blocked=False, pending=False
        ),
    ):
        assert meaningOf(process, expected.signo) == expected


def test_signalIsBlockedIfEveryRunningThreadBlocksIt() -> None:
    """
    Ended threads do not count.
    """
    other = THREAD._replace(tid=4713, blocked=frozenset({SIGHUP, SIGUSR2}))
    ended = THREAD._replace(tid=4714, blocked=frozenset(), state="zombie")
    assert ProcessSignals((THREAD, other, ended)).blocked == {SIGHUP}
    assert ProcessSignals((ended,)).hasEnded
    assert not ProcessSignals((ended, other)).hasEnded
    assert ProcessSignals((ended,)).blocked == set()


@pytest.fixture
def smallCores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """
    Let children dump small cores into the test's directory.

    @return: Whether core dumps can be expected there.
    """
    monkeypatch.chdir(tmp_path)
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    _, hard = before = resource.getrlimit(resource.RLIMIT_CORE)
    filters = Path("/proc/self/coredump_filter")
    filterBefore = filters.read_text()
    filters.write_text("0")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield hard != 0 and not pattern.startswith(("|", "/", "@"))
    resource.setrlimit(resource.RLIMIT_CORE, before)
    filters.write_text("0x" + filterBefore)


@pytest.mark.parametrize("signo", sorted({*range(1, 65)} - C_LIBRARYS))
def test_defaultEffectIsTheKernels(signo: int, smallCores: bool) -> None:
    """
    Each signal is sent to a child with default dispositions.
    """
    pid = os.fork()
    if pid == 0:
        # A terminal's signals do not stop processes in an orphaned process group, as
        # this one may be: setpgid(2).
        os.setpgid(0, 0)
        with suppress(OSError):  # SIGKILL, SIGSTOP
            signal.signal(signo, signal.SIG_DFL)
        os.kill(os.getpid(), signo)
        os._exit(0)
    _, status = os.waitpid(pid, os.WUNTRACED)
    effect = defaultEffect(signo)
    if os.WIFSTOPPED(status):
        os.kill(pid, SIGKILL)
        os.waitpid(pid, 0)
        assert effect is Effect.STOPS
    elif os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signo
        assert effect in (Effect.DIES, Effect.DUMPS)
        if smallCores:
            assert os.WCOREDUMP(status) == (effect is Effect.DUMPS)
    else:
        assert effect is (Effect.CONTINUES if signo == SIGCONT else Effect.IGNORED)


# --- real processes


def test_processWithTwoThreads(tmp_path: Path) -> None:
    """
    Signals may be pending for the process or a thread, and blocked in one or all.
    """
    with twoThreads(tmp_path) as (running, tid):
        process = ofProcess(running.pid)
        # A thread's number leads to its process.
        assert [thread.tid for thread in ofProcess(tid).threads] == [running.pid, tid]
    main, worker = process.threads
    assert process.main is main
    assert (main.pid, main.tid, main.name) == (running.pid, running.pid, "main one")
    assert (worker.pid, worker.tid, worker.name) == (running.pid, tid, "worker")
    common = {SIGUSR2, SIGTERM, SIGRTMIN + 1}
    assert main.blocked == common
    assert main.pending == {SIGUSR2}
    assert worker.blocked == common | {SIGWINCH}
    assert worker.pending == {SIGWINCH}
    assert main.shared == worker.shared == {SIGTERM, SIGRTMIN + 1}
    assert process.blocked == common
    assert main.ignored - C_LIBRARYS == {SIGHUP, SIGPIPE, SIGXFSZ}
    assert main.caught - C_LIBRARYS == {SIGINT, SIGUSR1}
    assert main.uid == os.getuid()
    assert main.queued >= 1
    assert main.queueLimit == resource.getrlimit(resource.RLIMIT_SIGPENDING)[0]


def test_stoppedProcess(tmp_path: Path) -> None:
    with python(tmp_path, "print('ready', flush=True); input()") as running:
        running.kill(SIGSTOP)
        waitFor(lambda: ofProcess(running.pid).main.state == "stopped", "it stops")
        assert not ofProcess(running.pid).hasEnded


def test_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert ofProcess(child.pid).hasEnded
    child.wait()
    with pytest.raises(ProcessLookupError, match=f"no process {child.pid}"):
        ofProcess(child.pid)


MAIN_HAS_ENDED = """
import ctypes, sys, threading
threading.Thread(target=threading.Event().wait).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""


def test_processWithoutItsMainThread(tmp_path: Path) -> None:
    number = str(systemCall("exit"))
    child = subprocess.Popen([sys.executable, "-c", MAIN_HAS_ENDED, number])
    try:
        waitFor(lambda: ofProcess(child.pid).main.hasEnded, "the main thread ends")
        process = ofProcess(child.pid)
        assert process.main.tid == child.pid
        assert [thread.hasEnded for thread in process.threads] == [True, False]
        assert not process.hasEnded
        assert SIGINT in process.main.caught
    finally:
        child.kill()
        child.wait()


def test_initHasNoDefaultActions() -> None:
    """
    The kernel does not kill the init of a namespace.
    """

    def withInit() -> tuple[ProcessSignals, int] | None:
        try:
            checked(libc.unshare(CLONE_NEWPID))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                raise
            return None
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), SIGTERM)
            os.kill(os.getpid(), SIGKILL)
            os.close(writer)
            os.read(reader, 1)
            os._exit(7)
        process = ofProcess(pid)
        os.close(writer)
        return process, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    outcome = inChild(withInit)
    if outcome is None:
        pytest.skip("this system does not let us make a pid namespace")
    process, status = outcome
    assert status == 7
    assert process.main.isInit
    for signo in (SIGTERM, SIGKILL):
        assert meaningOf(process, signo)[1:3] == (Disposition.DEFAULT, Effect.IGNORED)
    assert meaningOf(process, SIGCONT).effect is Effect.CONTINUES


def test_threadsMayEndMeanwhile() -> None:
    """
    A thread that ends while its status is read is left out.
    """
    end = threading.Event()

    def churn() -> None:
        while not end.is_set():
            thread = threading.Thread(target=end.is_set)
            thread.start()
            thread.join()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        for _ in range(200):
            process = ofProcess()
            assert process.main.tid == os.getpid()
    finally:
        end.set()
        churning.join()


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError])
def test_processMayEndMeanwhile(
    error: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It may end before its status is opened, or before it is read.
    """

    def status(tid: str, tasks: int) -> str:
        raise error

    monkeypatch.setattr(procstatus, "_status", status)
    with pytest.raises(ProcessLookupError, match=f"there is no process {os.getpid()}"):
        ofProcess(os.getpid())


def test_hiddenProcessIsAPermissionError() -> None:
    """
    Another user may not read it with C{hidepid=1} (proc(5)).
    """
    parent = os.getpid()

    def hidden() -> str | None:
        try:
            checked(libc.unshare(CLONE_NEWNS))
            checked(libc.mount(b"none", b"/", None, MS_PRIVATE_AND_RECURSIVE, None))
            checked(libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=1"))
        except OSError:
            return None
        # The group of the mount's gid, 0, may look.
        os.setgroups([])
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
        try:
            ofProcess(parent)
        except PermissionError as error:
            return error.strerror
        finally:
            os.seteuid(0)
        return ""

    message = inChild(hidden)
    if message is None:
        pytest.skip("this system does not let us mount")
    assert message.startswith(f"cannot read the state of process {parent}: ")


def test_permissionErrorHasTheSystemsReason(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error names the process.
    """

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(
        PermissionError, match="cannot read the state of process 1: Permission denied"
    ):
        ofProcess(1)


def test_missingProcIsAnError(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Systems like macOS, and a bare chroot, have no /proc.
    """
    monkeypatch.setattr(procstatus, "PROC", str(tmp_path))
    with pytest.raises(ProcUnavailable, match=f"this system has no {tmp_path}"):
        ofProcess(1)


# --- at the start of a program


def test_stateAtStartIsNotPythons() -> None:
    """
    Python's handler for SIGINT does not count; the dispositions of SIGPIPE and SIGXFSZ
    are unknown.
    """

    def caught() -> tuple[ProcessSignals, ProcessSignals]:
        signal.signal(SIGINT, signal.default_int_handler)
        signal.signal(SIGHUP, signal.SIG_IGN)
        first = atStart()
        signal.signal(SIGINT, lambda *_: None)
        signal.signal(SIGUSR1, lambda *_: None)
        return first, atStart()

    first, second = inChild(caught)
    assert first.unknown >= {SIGPIPE, SIGXFSZ}
    assert SIGINT not in first.unknown
    assert meaningOf(first, SIGINT).effect is Effect.DIES
    assert meaningOf(first, SIGHUP).disposition is Disposition.IGNORED
    assert second.unknown == first.unknown | {SIGINT, SIGUSR1}
    for process in (first, second):
        assert not process.main.caught
        assert not process.main.ignored & process.unknown
