# -*- test-case-name: tests.test_siginfo -*-
"""
Bytes in, L{SigInfo} out: the record of signalfd(2) as a value.

No reactor is involved, and no system call but that of C{read}.

Programs often only count a signal, or compare its number.  So a L{SigInfo}
holds its record undecoded, and decodes a field when it is read.  Its base class
C{Record} does that, in C.  PyPy has one in Python, and so has CPython if
C{TXSIGNALFD_PURE} is set to anything in the environment.

The meaning of a field depends on C{signo} and C{code} together (see "The
siginfo_t argument" in sigaction(2)).  The attributes with the man page's names
return what the kernel wrote, whether it means something or not.
L{SigInfo.sender}, L{SigInfo.child} and L{SigInfo.value} return the meaning, and
C{None} where there is none.
"""

from __future__ import annotations

import builtins
import os
import struct
import sys
from signal import SIGCHLD, Signals
from typing import TYPE_CHECKING, Final, NamedTuple

from txsignalfd._native.names import CODES, codeName, codeNumber, signalName, toSignal
from txsignalfd._native.purerecord import LAYOUT, SIZE

__all__ = ["SIGINFO_SIZE", "Child", "Sender", "SigInfo", "describe", "parse"]

if TYPE_CHECKING:
    from txsignalfd._native.record import Record
elif sys.implementation.name != "cpython" or os.environ.get("TXSIGNALFD_PURE"):
    from txsignalfd._native.purerecord import Record
else:
    from txsignalfd._native.record import Record

#: The size of a record in bytes.
SIGINFO_SIZE: Final[int] = SIZE


def _pack(**fields: int) -> bytes:
    """
    Make a record with these fields, and 0 in all others.

    @raise TypeError: For an unknown field.
    @raise ValueError: For a number that does not fit into its field.
    """
    record = bytearray(SIGINFO_SIZE)
    for name, value in fields.items():
        if name not in LAYOUT:
            raise TypeError(
                f"unknown field {name!r}; the fields are {', '.join(LAYOUT)}"
            )
        offset, layout = LAYOUT[name]
        try:
            struct.pack_into(layout, record, offset, value)
        except struct.error as error:
            raise ValueError(f"{name} cannot be {value!r}: {error}") from None
    return bytes(record)


class Sender(NamedTuple):
    """
    The process that sent a signal.

    @ivar pid: Its process id in this pid namespace.  0 if the sender is outside
        this namespace, or if the kernel had no room for the signal's siginfo
        (RLIMIT_SIGPENDING).
    @ivar uid: Its real user id; meaningless when C{pid} is 0.
    @ivar vouched: Whether the kernel wrote C{pid} and C{uid}.  Otherwise, as with
        sigqueue(3), they are a claim of the sender.
    """

    pid: int
    uid: int
    vouched: bool


class Child(NamedTuple):
    """
    The state change of a child that a C{SIGCHLD} reports.

    When several children end together, C{SIGCHLD} reports only one of them: wait
    for each child to learn about each.

    @ivar pid: The child's process id.
    @ivar exitCode: Its exit status, or C{None} if it did not exit.
    @ivar signal: The signal that killed, stopped, trapped or continued it, or
        C{None} if it exited.
    @ivar coreDumped: Whether it left a core dump.
    @ivar userTime: The CPU time that it used in user mode, in seconds.
    @ivar systemTime: The CPU time that it used in the kernel, in seconds.
    """

    pid: int
    exitCode: int | None
    signal: Signals | int | None
    coreDumped: bool
    userTime: float
    systemTime: float


#: The only negative code that another process cannot send with rt_sigqueueinfo(2).
_SI_TKILL: Final = CODES.get("SI_TKILL")
#: Codes of claims that are not negative on all systems.
_CLAIMS: Final = {
    CODES.get(name) for name in ("SI_QUEUE", "SI_TIMER", "SI_MESGQ", "SI_ASYNCIO")
}
_CLD_EXITED: Final = CODES["CLD_EXITED"]
_CLD_DUMPED: Final = CODES["CLD_DUMPED"]
_CLD: Final = {code for name, code in CODES.items() if name.startswith("CLD_")}

#: The unit of C{utime} and C{stime}: this many are a second.
_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: How a process sends a signal, by the name of the signal's code.
_SENT_BY: Final = {
    "SI_USER": "kill",
    "SI_TKILL": "tgkill",
    "SI_QUEUE": "sigqueue",
    "SI_MESGQ": "a message queue",
    "SI_ASYNCIO": "asynchronous I/O",
}

_CHILD_DID: Final = {
    "CLD_KILLED": "was killed by",
    "CLD_DUMPED": "dumped core on",
    "CLD_TRAPPED": "was trapped by",
    "CLD_STOPPED": "was stopped by",
    "CLD_CONTINUED": "was continued by",
}


class SigInfo(Record):
    """
    A received signal: its sender, and the data that came with it.

    Immutable, hashable, and equal to another with the same record.  The fields
    of signalfd(2) are attributes, with and without their prefix C{ssi_}.
    L{parse} makes instances from the bytes of a signalfd, and L{make} from
    fields, for tests.

    @ivar signo: The signal's number.
    @ivar errno: Unused by Linux.
    @ivar code: The reason why the signal was sent; L{codeName} is its name.
    @ivar pid: The process id of the sender, or of the child.
    @ivar uid: The real user id of the sender, or of the child.
    @ivar fd: The descriptor that is ready (C{SIGIO}).
    @ivar tid: The kernel's number of the timer (POSIX timers).
    @ivar band: The events of poll(2) on C{fd} (C{SIGIO}).
    @ivar overrun: How many expirations of the timer were merged into this signal
        (POSIX timers).
    @ivar trapno: The number of the trap.
    @ivar status: The exit status, or a signal (C{SIGCHLD}).
    @ivar int: The int that sigqueue(3), a timer or a message queue sent.
    @ivar ptr: The same as a pointer.
    @ivar utime: A child's user time, in ticks of C{SC_CLK_TCK} (C{SIGCHLD}).
    @ivar stime: A child's system time, in the same unit.
    @ivar addr: The address of a fault.
    @ivar addr_lsb: The least significant bit of C{addr} (C{SIGBUS}).
    @ivar syscall: The system call that was refused (C{SIGSYS}).
    @ivar call_addr: The address of that call.
    @ivar arch: The architecture of that call.
    @ivar value: The int that sigqueue(3) sent, or C{None} for any other signal.
    """

    __slots__ = ()

    @classmethod
    def make(
        cls,
        signal: builtins.int,
        code: builtins.int | str = "SI_USER",
        **fields: builtins.int,
    ) -> SigInfo:
        """
        Make an instance for a test: C{SigInfo.make(SIGCHLD, "CLD_EXITED", pid=42)}.

        @param signal: The signal's number.
        @param code: The code, or its name.
        @param fields: Other attributes; those that are not given are 0.
        @raise TypeError: For an unknown field.
        @raise ValueError: For an unknown name of a code, and for a number that
            does not fit into its field.
        """
        number = codeNumber(code) if isinstance(code, str) else code
        return cls(_pack(signo=signal, code=number, **fields))

    @property
    def signal(self) -> Signals | builtins.int:
        """
        The signal as a member of C{signal.Signals}, or its number.
        """
        return toSignal(self.signo)

    @property
    def name(self) -> str:
        """
        The signal's name, as kill(1) has it: C{SIGHUP}, C{SIGRTMIN+3}.
        """
        return signalName(self.signo)

    @property
    def codeName(self) -> str:
        """
        The name of C{code}, such as C{SI_USER} or C{CLD_EXITED}.

        A code without a name is returned as its number in decimal.
        """
        code = self.code
        return codeName(self.signo, code) or str(code)

    @property
    def vouched(self) -> bool:
        """
        Whether the kernel vouches for C{code}, and so for the other fields.

        Any process may send any negative code but C{SI_TKILL}, with any fields:
        rt_sigqueueinfo(2).  So the codes of sigqueue(3), of POSIX timers, of message
        queues and C{SI_SIGIO} are claims.
        """
        code = self.code
        return code == _SI_TKILL or (code >= 0 and code not in _CLAIMS)

    @property
    def sender(self) -> Sender | None:
        """
        The process that sent the signal, or C{None} if the code names no sender.

        The kernel and timers, for example, are no senders.
        """
        if self.codeName not in _SENT_BY:
            return None
        return Sender(self.pid, self.uid, self.vouched and self.pid != 0)

    @property
    def child(self) -> Child | None:
        """
        The child's change of state, or C{None} if the signal reports none.

        A C{SIGCHLD} that was sent by a process reports none.
        """
        code = self.code
        if self.signo != SIGCHLD or code not in _CLD:
            return None
        exited = code == _CLD_EXITED
        return Child(
            pid=self.pid,
            exitCode=self.status if exited else None,
            signal=None if exited else toSignal(self.status),
            coreDumped=code == _CLD_DUMPED,
            userTime=self.utime / _TICKS,
            systemTime=self.stime / _TICKS,
        )

    def __str__(self) -> str:
        return describe(self)

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in LAYOUT)
        shown = " ".join(f"{name}={value}" for name, value in fields if value)
        return f"<SigInfo {self.name} {shown}>"


def describe(info: SigInfo, command: str | None = None) -> str:
    """
    Describe a signal in one line: C{SIGHUP from pid 4242 (uid 1000) by kill}.

    If the kernel does not vouch for the signal, the line says what it claims.

    @param info: The signal.
    @param command: The command that its sender runs, to be shown with its pid.
    """
    return f"{info.name} {_origin(info, command)}"


def _origin(info: SigInfo, command: str | None) -> str:
    code, vouched = info.codeName, info.vouched
    source = "from" if vouched else "claims to come from"
    if (sender := info.sender) is not None:
        process = f"pid {sender.pid}" if sender.pid else "a process unknown here"
        command = f"{command}, " if command else ""
        value = "" if info.value is None else f", value {info.value}"
        how = f"{_SENT_BY[code]}{value}"
        return f"{source} {process} ({command}uid {sender.uid}) by {how}"
    if (child := info.child) is not None:
        how = _CHILD_DID.get(code, "exited with status")
        what = str(child.exitCode) if child.signal is None else signalName(child.signal)
        return f"from the kernel: child {child.pid} {how} {what}"
    if code == "SI_TIMER":
        timer = f"{info.tid}, overrun {info.overrun}, value {info.int}"
        return f"{source} POSIX timer {timer}"
    if code == "SI_KERNEL":
        return "from the kernel"
    if code == "SI_SIGIO" or code.startswith("POLL_"):
        source = "from the kernel:" if vouched else "claims that"
        return f"{source} descriptor {info.fd} is ready ({code})"
    return f"{'with' if vouched else 'claims'} code {code}"


_parse: Final = SigInfo._parse

#: Read a signalfd, given its number, at most C{TXS_RECORDS_PER_READ} records: the same
#: as C{os.read} and L{parse}, but faster.
read: Final = SigInfo._read


def parse(buffer: bytes | bytearray | memoryview) -> list[SigInfo]:
    """
    Parse the records that read(2) returned from a signalfd.

    @param buffer: Any number of whole records.
    @return: A L{SigInfo} for each record, in order.
    @raise ValueError: If the length is no multiple of L{SIGINFO_SIZE}.  Then
        nothing is parsed.
    """
    return _parse(buffer)
