# -*- test-case-name: tests.proc.test_status -*-
"""
The effects of signals on a process, from C{/proc/PID/status}: signal(7).

L{ofProcess} reads the state of a process, and L{atStart} the state that this
process was started with.  L{ThreadSignals.fromStatus} and L{ProcessSignals}
themselves read nothing.

All threads of a process share its dispositions and the signals that are pending
for the process.  A mask belongs to one thread, and so do the signals that were
sent to that thread.  The kernel delivers a signal for the process to any thread
that does not block it, so the signal stays pending only if every thread blocks
it.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from contextlib import suppress
from enum import Enum
from typing import Any, Final, NamedTuple

from txsignalfd._native.extension import lib
from txsignalfd._native.names import signalName


class Disposition(Enum):
    """
    The action that a process has set for a signal.
    """

    DEFAULT = "default"
    IGNORED = "ignored"
    CAUGHT = "caught"
    #: It cannot be determined.
    UNKNOWN = "unknown"


class Effect(Enum):
    """
    The effect on a process when a signal is delivered.
    """

    CAUGHT = "caught"
    IGNORED = "ignored"
    UNKNOWN = "unknown"
    DIES = "dies"
    #: If RLIMIT_CORE allows a core dump.
    DUMPS = "dies with a core dump"
    STOPS = "stops"
    #: A stopped process continues even if SIGCONT is caught or ignored.
    CONTINUES = "continues"


#: The default actions of signal(7).  Every other signal terminates the process.
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
    Return what a signal does to a process that has set no action for it.
    """
    return _DEFAULTS.get(signo, Effect.DIES)


class Meaning(NamedTuple):
    """
    The effect of a signal on a process.

    @ivar signo: The signal's number.
    @ivar disposition: The action that the process has set.
    @ivar effect: The result of that action when the signal is delivered.
    @ivar blocked: Whether every thread blocks the signal.
    @ivar pending: Whether the signal is pending for the process.
    """

    signo: int
    disposition: Disposition
    effect: Effect
    blocked: bool
    pending: bool

    def toJSON(self) -> dict[str, Any]:
        """
        Return plain values for C{json.dumps}, named as by C{twistd signalfd}.
        """
        return {
            "signal": self.signo,
            "name": signalName(self.signo),
            "disposition": self.disposition.value,
            "effect": self.effect.value,
            "blocked": self.blocked,
            "pending": self.pending,
        }


#: The mount point of procfs.
PROC: Final = "/proc"


class ProcUnavailable(OSError):
    """
    This system has no C{/proc}, or one without information about signals.
    """


class ThreadSignals(NamedTuple):
    """
    The signals of a thread, and of its process.

    @ivar pid: The process id.
    @ivar tid: The thread id.
    @ivar name: The name that the kernel stores for the thread, at most 15 bytes.
        Show it by L{quoted <txsignalfd._proc.quoting.quoted>}.
    @ivar state: C{running}, C{sleeping}, C{stopped}, C{zombie}, …
    @ivar uid: The real user id.
    @ivar isInit: Whether the process is the first of its pid namespace.  The
        kernel does not apply default actions to it.
    @ivar isKernelThread: Whether this is a thread of the kernel.
    @ivar queued: The number of signals queued for all processes of this user.
    @ivar queueLimit: The process's RLIMIT_SIGPENDING; C{None} if unlimited.
    @ivar pending: The signals that are pending for this thread only.
    @ivar shared: The signals that are pending for the process.
    @ivar blocked: The signals that this thread blocks.
    @ivar ignored: The signals that the process ignores.
    @ivar caught: The signals that the process has a handler for.
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
        Parse C{/proc/PID/task/TID/status}.

        @param text: The content of the file.  Unknown lines are ignored.
        @raise ProcUnavailable: If a required line is missing or malformed.
        """
        lines = (line.partition(":") for line in text.split("\n"))
        fields = {name: value.removeprefix("\t") for name, _, value in lines}
        try:
            queued, queueLimit = fields["SigQ"].split("/")
            return cls(
                pid=int(fields["Tgid"]),
                tid=int(fields["Pid"]),
                name=_unescape(fields["Name"]),
                # A letter, followed by its meaning in brackets.
                state=fields["State"].partition(" (")[2].rstrip(")"),
                uid=int(fields["Uid"].split()[0]),
                # The process id in each nested namespace, the innermost last.
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
            problem = f"the line {error.args[0]} is missing"
        except (ValueError, IndexError) as error:
            problem = str(error)
        raise ProcUnavailable(errno.ENOSYS, f"{PROC}/PID/status: {problem}")

    @property
    def hasEnded(self) -> bool:
        """
        Whether the thread has ended and only its status is left.
        """
        return self.state in ("zombie", "dead")


def _unescape(name: str) -> str:
    # The kernel escapes these two characters, and no others.
    return re.sub(r"\\([n\\])", lambda match: "\n" if match[1] == "n" else "\\", name)


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

    @ivar threads: Its threads, at least one, the main thread first.
    @ivar unknown: The signals whose disposition cannot be determined.
    """

    threads: tuple[ThreadSignals, ...]
    unknown: frozenset[int] = frozenset()

    @property
    def main(self) -> ThreadSignals:
        """
        The main thread, which may have ended before the others.
        """
        return self.threads[0]

    @property
    def hasEnded(self) -> bool:
        """
        Whether all threads have ended.
        """
        return all(thread.hasEnded for thread in self.threads)

    @property
    def blocked(self) -> frozenset[int]:
        """
        The signals that every running thread blocks.
        """
        masks = [thread.blocked for thread in self.threads if not thread.hasEnded]
        return frozenset.intersection(*masks or [self.main.blocked])

    def meanings(self) -> list[Meaning]:
        """
        Return what each signal does to the process, sorted by number.
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
            # Even SIGKILL and SIGSTOP, unless sent from an outer namespace.
            return Disposition.DEFAULT, Effect.IGNORED
        return Disposition.DEFAULT, defaultEffect(signo)


def _noProcess(pid: int | None) -> OSError:
    if os.path.exists(f"{PROC}/self"):
        return ProcessLookupError(errno.ESRCH, f"there is no process {pid}")
    return ProcUnavailable(errno.ENOSYS, f"this system has no {PROC}")


def ofProcess(pid: int | None = None) -> ProcessSignals:
    """
    Read what each signal does to a process.

    @param pid: The id of the process or of one of its threads; C{None} for this
        process.
    @raise ProcessLookupError: If the process does not exist, or has ended.
    @raise PermissionError: If this process may not read its state.
    @raise ProcUnavailable: If C{/proc} is missing or does not show signals.
    """
    threads = []
    try:
        # The descriptor keeps referring to this process, even if its pid is
        # reused while its files are read.
        tasks = os.open(
            f"{PROC}/{'self' if pid is None else pid}/task", os.O_RDONLY | os.O_CLOEXEC
        )
        try:
            for tid in os.listdir(tasks):
                # A thread may end before its file is read.
                with suppress(FileNotFoundError, ProcessLookupError):
                    threads.append(ThreadSignals.fromStatus(_status(tid, tasks)))
        finally:
            os.close(tasks)
    except FileNotFoundError:
        raise _noProcess(pid) from None
    except PermissionError as error:
        raise PermissionError(
            error.errno, f"cannot read the state of process {pid}: {error.strerror}"
        ) from error
    if not threads:
        raise _noProcess(pid)
    threads.sort(key=lambda thread: (thread.tid != thread.pid, thread.tid))
    return ProcessSignals(tuple(threads))


def _status(tid: str, tasks: int) -> str:
    with open(
        f"{tid}/status",
        encoding="utf-8",
        errors="replace",
        newline="\n",
        opener=lambda path, flags: os.open(path, flags, dir_fd=tasks),
    ) as status:
        return status.read()


def atStart() -> ProcessSignals:
    """
    Return the state that this process was started with.

    Any other program that is started here begins with the same state.  Call this
    before the program changes the mask or a disposition.

    A program starts without handlers, and with the signals of its parent ignored,
    blocked or pending.  Python then ignores SIGPIPE and SIGXFSZ, whose previous
    dispositions are lost, and catches SIGINT unless it was ignored.  The previous
    disposition of any other signal that is caught by now is unknown, too.
    """
    process = ofProcess()
    unknown = process.main.caught | {signal.SIGPIPE, signal.SIGXFSZ}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        unknown -= {signal.SIGINT}
    start = process.main._replace(
        caught=frozenset(), ignored=process.main.ignored - unknown
    )
    return ProcessSignals((start,), unknown)
