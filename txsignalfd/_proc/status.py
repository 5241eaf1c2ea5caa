# -*- test-case-name: tests.proc.test_status -*-
"""
What a process does with each signal, from C{/proc}: proc_pid_status(5).

L{ThreadSignals.fromStatus} and all that L{ProcessSignals} tells are pure.
L{ofProcess} reads a process, and L{atStart} what this one was started with.

Dispositions and the pending signals of the process belong to all of its
threads; a mask, and the signals that were sent to one thread, are that
thread's.  What the process does with a signal is what the kernel finds when
it looks for a thread to take it: it waits only if every thread blocks it.

What a signal does to a process: signal(7).
"""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from enum import Enum
from typing import Any, Final, NamedTuple

from txsignalfd._native.extension import lib
from txsignalfd._native.names import signalName


class Disposition(Enum):
    """
    What a process has chosen to do with a signal.
    """

    DEFAULT = "default"
    IGNORED = "ignored"
    CAUGHT = "caught"
    #: Nothing can tell it.
    UNKNOWN = "unknown"


class Effect(Enum):
    """
    What becomes of a process when a signal is delivered.
    """

    CAUGHT = "caught"
    IGNORED = "ignored"
    UNKNOWN = "unknown"
    DIES = "dies"
    #: Where RLIMIT_CORE allows one.
    DUMPS = "dies with a core dump"
    STOPS = "stops"
    #: A process that is stopped goes on in any case, caught or ignored.
    CONTINUES = "continues"


#: The default actions of signal(7); the others', realtime too, is to die.
_DEFAULTS: Final[dict[int, Effect]] = {
    **dict.fromkeys(
        (
            signal.SIGQUIT,
            signal.SIGILL,
            signal.SIGTRAP,
            signal.SIGABRT,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGSEGV,
            signal.SIGXCPU,
            signal.SIGXFSZ,
            signal.SIGSYS,
        ),
        Effect.DUMPS,
    ),
    **dict.fromkeys((signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH), Effect.IGNORED),
    **dict.fromkeys(
        (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU), Effect.STOPS
    ),
    signal.SIGCONT: Effect.CONTINUES,
}


def defaultEffect(signo: int) -> Effect:
    """
    What a signal does to a process that has chosen nothing.
    """
    return _DEFAULTS.get(signo, Effect.DIES)


class Meaning(NamedTuple):
    """
    What a signal means to a process.

    @ivar signo: The signal's number.
    @ivar disposition: What the process has chosen.
    @ivar effect: What that comes to when the signal is delivered.
    @ivar blocked: Whether it waits until a thread unblocks it.
    @ivar pending: Whether one for the process waits already.
    """

    signo: int
    disposition: Disposition
    effect: Effect
    blocked: bool
    pending: bool

    def toJSON(self) -> dict[str, Any]:
        """
        The same as plain values, by the names that C{twistd signalfd} uses.
        """
        return {
            "signal": self.signo,
            "name": signalName(self.signo),
            "disposition": self.disposition.value,
            "effect": self.effect.value,
            "blocked": self.blocked,
            "pending": self.pending,
        }


#: Where procfs is.
PROC: Final = "/proc"


class ProcUnavailable(OSError):
    """
    There is no C{/proc} here, or none that tells of signals.
    """


class ThreadSignals(NamedTuple):
    """
    The signals of a thread, and of the process that it is of.

    @ivar pid: The process.
    @ivar tid: The thread.
    @ivar name: Its name, as the kernel has it: at most 15 bytes, what is no
        text escaped.
    @ivar state: C{running}, C{sleeping}, C{stopped}, C{zombie}, …
    @ivar uid: The real user id.
    @ivar isInit: Whether the process is the first of its pid namespace.  The
        kernel spares it the default actions.
    @ivar isKernelThread: Whether it is no program at all.
    @ivar queued: How many signals wait in all processes of this user.
    @ivar queueLimit: How many may, by this process's RLIMIT_SIGPENDING;
        C{None} where that is unlimited.
    @ivar pending: Signals that wait for this thread alone.
    @ivar shared: Signals that wait for the process.
    @ivar blocked: Signals that this thread blocks.
    @ivar ignored: Signals that the process ignores.
    @ivar caught: Signals that the process has a handler for.
    """

    pid: int
    tid: int
    name: str
    state: str
    uid: int
    isInit: bool
    isKernelThread: bool
    queued: int
    queueLimit: int | None
    pending: frozenset[int]
    shared: frozenset[int]
    blocked: frozenset[int]
    ignored: frozenset[int]
    caught: frozenset[int]

    @classmethod
    def fromStatus(cls, text: str) -> ThreadSignals:
        """
        Read C{/proc/PID/task/TID/status}.

        @param text: What stands there.  Lines that are not known are passed
            over.
        @raise ProcUnavailable: When a line that is needed is missing, or not
            as the kernel writes it.
        """
        lines = (line.partition(":") for line in text.split("\n"))
        fields = {name: value.removeprefix("\t") for name, _, value in lines}
        try:
            queued, queueLimit = fields["SigQ"].split("/")
            return cls(
                pid=int(fields["Tgid"]),
                tid=int(fields["Pid"]),
                name=printable(fields["Name"]),
                # A letter, and the word for it in brackets.
                state=printable(fields["State"].partition(" (")[2].rstrip(")")),
                uid=int(fields["Uid"].split()[0]),
                # As each nested namespace numbers it, the innermost last.
                isInit=fields.get("NStgid", "").split()[-1:] == ["1"],
                isKernelThread=fields.get("Kthread") == "1",
                queued=int(queued),
                queueLimit=_limit(queueLimit),
                pending=_signals(fields["SigPnd"]),
                shared=_signals(fields["ShdPnd"]),
                blocked=_signals(fields["SigBlk"]),
                ignored=_signals(fields["SigIgn"]),
                caught=_signals(fields["SigCgt"]),
            )
        except KeyError as error:
            problem = f"it has no line {error.args[0]}"
        except (ValueError, IndexError) as error:
            problem = str(error)
        raise ProcUnavailable(errno.ENOSYS, f"{PROC}/PID/status: {problem}")

    @property
    def hasEnded(self) -> bool:
        """
        Whether it is only kept for somebody to learn of its end.
        """
        return self.state in ("zombie", "dead")


def printable(text: str) -> str:
    """
    A text of another process without what a terminal would obey.
    """
    # A process chooses its name.
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _limit(text: str) -> int | None:
    # RLIM_INFINITY is an unsigned long with every bit set.
    limit = int(text)
    return None if limit in (2**32 - 1, 2**64 - 1) else limit


def _signals(mask: str) -> frozenset[int]:
    bits = f"{int(mask, 16):b}"
    return frozenset(signo for signo, bit in enumerate(reversed(bits), 1) if bit == "1")


class ProcessSignals(NamedTuple):
    """
    The signals of a process.

    @ivar threads: Its threads, the main thread first; at least one.
    @ivar unknown: Signals whose disposition nothing can tell.
    """

    threads: tuple[ThreadSignals, ...]
    unknown: frozenset[int] = frozenset()

    @property
    def main(self) -> ThreadSignals:
        """
        The main thread, or a zombie in its place.
        """
        return self.threads[0]

    @property
    def hasEnded(self) -> bool:
        """
        Whether no thread is left to take a signal.
        """
        return all(thread.hasEnded for thread in self.threads)

    @property
    def blocked(self) -> frozenset[int]:
        """
        What every thread blocks.
        """
        masks = [thread.blocked for thread in self.threads if not thread.hasEnded]
        return frozenset.intersection(*masks or [self.main.blocked])

    def meanings(self) -> list[Meaning]:
        """
        What each signal means that is sent to the process, by number.
        """
        blocked, pending = self.blocked, self.main.shared
        return [
            Meaning(signo, *self._does(signo), signo in blocked, signo in pending)
            for signo in range(1, lib.TXS_NSIG)
        ]

    def _does(self, signo: int) -> tuple[Disposition, Effect]:
        if signo in self.unknown:
            return Disposition.UNKNOWN, Effect.UNKNOWN
        if signo in self.main.caught:
            return Disposition.CAUGHT, Effect.CAUGHT
        if signo in self.main.ignored:
            return Disposition.IGNORED, Effect.IGNORED
        if self.main.isInit and defaultEffect(signo) is not Effect.CONTINUES:
            # SIGKILL and SIGSTOP too, but for who is outside its namespace.
            return Disposition.DEFAULT, Effect.IGNORED
        return Disposition.DEFAULT, defaultEffect(signo)


def _noProcess(pid: int | None) -> OSError:
    if os.path.exists(f"{PROC}/self"):
        return ProcessLookupError(errno.ESRCH, f"there is no process {pid}")
    return ProcUnavailable(errno.ENOSYS, f"there is no {PROC} here")


def ofProcess(pid: int | None = None) -> ProcessSignals:
    """
    Read what a process does with each signal.

    @param pid: The process, or one of its threads; C{None} for this one.
    @raise ProcessLookupError: When there is none, or none any more.
    @raise PermissionError: When it may not be looked at.
    @raise ProcUnavailable: When there is no C{/proc} that tells of signals.
    """
    threads = []
    try:
        # The descriptor stays with the process: its pid may be given to
        # another while we read.
        tasks = os.open(
            f"{PROC}/{'self' if pid is None else pid}/task", os.O_RDONLY | os.O_CLOEXEC
        )
        try:
            for tid in os.listdir(tasks):
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                    threads.append(ThreadSignals.fromStatus(_status(tid, tasks)))
        finally:
            os.close(tasks)
    except FileNotFoundError:
        raise _noProcess(pid) from None
    except PermissionError as error:
        raise PermissionError(
            error.errno, f"process {pid} may not be looked at: {error.strerror}"
        ) from error
    if not threads:
        raise _noProcess(pid)
    threads.sort(key=lambda thread: (thread.tid != thread.pid, thread.tid))
    return ProcessSignals(tuple(threads))


def _status(tid: str, tasks: int) -> str:
    with open(
        f"{tid}/status",
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        opener=lambda path, flags: os.open(path, flags, dir_fd=tasks),
    ) as status:
        return status.read()


def atStart() -> ProcessSignals:
    """
    What this program was started with, and any other would be in its place:
    for a program that has touched no signal yet.

    A program begins with no handlers, and with what was ignored, blocked or
    pending before.  Then Python ignores SIGPIPE and SIGXFSZ, and nothing keeps
    what they were; and it catches SIGINT, unless that was ignored.  What
    anything else catches is unknown.
    """
    process = ofProcess()
    unknown = process.main.caught | {signal.SIGPIPE, signal.SIGXFSZ}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        unknown -= {signal.SIGINT}
    start = process.main._replace(
        caught=frozenset(), ignored=process.main.ignored - unknown
    )
    return ProcessSignals((start,), unknown)
