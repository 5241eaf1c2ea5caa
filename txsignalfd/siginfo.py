# -*- test-case-name: tests.test_siginfo -*-
"""
Bytes in, L{SigInfo} out: the record of signalfd(2) as a value.  Pure: no
descriptor, no reactor, no system call.

A signal is often only counted, or compared with one number, so a L{SigInfo}
is no more than its record and its number, and decodes the rest when it is
asked.  Decoding everything at once was tried: it doubles the cost of a
record, for fields of which nearly all mean nothing in nearly all signals.

What a field means depends on C{signo} and C{code} together (see
sigaction(2), "The siginfo_t argument").  The attributes by the names of the
man page give what the kernel wrote, whether it means something or not;
L{SigInfo.sender}, L{SigInfo.child} and L{SigInfo.value} give what it means,
and C{None} where it means nothing.

Where each field of a record of signalfd(2) is, as the compiler has it.

Where a signal came from: L{Sender} and L{Child}.
"""

from __future__ import annotations

import builtins
import os
import struct
from collections.abc import Callable
from operator import attrgetter
from signal import SIGCHLD, Signals
from typing import Final, NamedTuple, cast

from txsignalfd._native.extension import ffi
from txsignalfd._native.names import CODES, codeName, codeNumber, signalName, toSignal

#: The size of one record, in bytes.
SIGINFO_SIZE: Final = ffi.sizeof("struct txs_siginfo")

_SIGNO_SIZE: Final = 4

#: A record as its first field, the signal's number, and the rest.
RECORD: Final = struct.Struct(f"=I{SIGINFO_SIZE - _SIGNO_SIZE}s")

_FORMATS = {"uint16_t": "H", "int32_t": "i", "uint32_t": "I", "uint64_t": "Q"}

#: Where each field is, and its format for C{struct}, as the compiler has it.
LAYOUT: Final[dict[str, tuple[int, str]]] = {
    name.rstrip("_"): (where.offset, _FORMATS[where.type.cname])
    for name, where in ffi.typeof("struct txs_siginfo").fields
}


def decoder(*names: str) -> Callable[[bytes], tuple[int, ...]]:
    """
    What reads fields from a record without its first one.

    @param names: The fields, in the order in which they stand in it.
    """
    format_, end = "=", _SIGNO_SIZE
    for name in names:
        offset, code = LAYOUT[name]
        format_ += f"{offset - end}x{code}"
        end = offset + struct.calcsize("=" + code)
    return struct.Struct(f"{format_}{SIGINFO_SIZE - end}x").unpack


def field(name: str) -> int:
    """
    The attribute of C{SigInfo} that reads one field from its record.  A real
    C{property}, because the interpreter has a fast path for those; its type is
    told as that of what it gives.
    """
    decode = decoder(name)
    return cast(int, property(lambda self: decode(self._rest)[0]))


def pack(**fields: int) -> bytes:
    """
    A record with these fields, and 0 in the others.

    @raise TypeError: For a field that there is not.
    @raise ValueError: For a number that has no room in its field.
    """
    record = bytearray(SIGINFO_SIZE)
    for name, value in fields.items():
        if name not in LAYOUT:
            raise TypeError(f"there is no field {name!r}: {', '.join(LAYOUT)}")
        offset, code = LAYOUT[name]
        try:
            struct.pack_into("=" + code, record, offset, value)
        except struct.error as error:
            raise ValueError(f"{name} cannot be {value!r}: {error}") from None
    return bytes(record)


class Sender(NamedTuple):
    """
    The process that sent a signal.

    @ivar pid: Its process id, as it is numbered here, or 0 where it cannot be
        named: a process outside this pid namespace, or a signal whose siginfo
        the kernel had no room for (RLIMIT_SIGPENDING).
    @ivar uid: Its real user id; nothing when C{pid} is 0.
    @ivar vouched: Whether the kernel wrote C{pid} and C{uid}.  Where it did
        not, as with sigqueue(3), they are what the sender says of itself.
    """

    pid: int
    uid: int
    vouched: bool


class Child(NamedTuple):
    """
    What happened to a child, as a C{SIGCHLD} tells it.

    Of several children that end together only one is told: to learn of each,
    wait for each.

    @ivar pid: The child's process id.
    @ivar exitCode: What it gave to exit(3), or C{None} if it did not exit.
    @ivar signal: The signal that killed, stopped, trapped or continued it, or
        C{None} if it exited.
    @ivar coreDumped: Whether it left a core dump.
    @ivar userTime: The CPU time it used, in seconds.
    @ivar systemTime: The CPU time the system used for it, in seconds.
    """

    pid: int
    exitCode: int | None
    signal: Signals | int | None
    coreDumped: bool
    userTime: float
    systemTime: float


__all__ = ["SIGINFO_SIZE", "Child", "Sender", "SigInfo", "describe", "parse"]

#: The codes that rt_sigqueueinfo(2) forbids to be forged for another process.
_VOUCHED: Final = {CODES["SI_USER"], CODES.get("SI_TKILL")}
_SI_QUEUE: Final = CODES["SI_QUEUE"]
_CLD_EXITED: Final = CODES["CLD_EXITED"]
_CLD_DUMPED: Final = CODES["CLD_DUMPED"]
_CLD: Final = {code for name, code in CODES.items() if name.startswith("CLD_")}
_codeAndInt: Final = decoder("code", "int")

#: The unit of C{utime} and C{stime}: this many are a second.
_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: How a process sends a signal, by the name of the code that it gets.
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


class SigInfo:
    """
    One signal that was received: who sent it, and what it says.

    Immutable, hashable, and equal to another with the same record.  The fields
    of signalfd(2) are attributes without their C{ssi_}; the names with it
    answer too.  L{parse} makes them of what a signalfd gives, and L{make} of
    what a test says.

    @ivar signo: The signal's number.
    @ivar errno: Unused by Linux.
    @ivar code: How it came to be sent; L{codeName} is its name.
    @ivar pid: The sender's process id, or the child's.
    @ivar uid: The sender's real user id, or the child's.
    @ivar fd: The descriptor that is ready (C{SIGIO}).
    @ivar tid: The kernel's number of the timer (POSIX timers).
    @ivar band: The events of poll(2) on C{fd} (C{SIGIO}).
    @ivar overrun: How often a timer ran out unnoticed (POSIX timers).
    @ivar trapno: The number of the trap.
    @ivar status: The exit status, or a signal (C{SIGCHLD}).
    @ivar int: The int that sigqueue(3), a timer or a message queue sent.
    @ivar ptr: The pointer of the same.
    @ivar utime: A child's user time, in ticks of C{SC_CLK_TCK} (C{SIGCHLD}).
    @ivar stime: A child's system time, in the same.
    @ivar addr: The address of a fault.
    @ivar addr_lsb: The least significant bit of C{addr} (C{SIGBUS}).
    @ivar syscall: The system call that was refused (C{SIGSYS}).
    @ivar call_addr: The address of that call.
    @ivar arch: The architecture of that call.
    """

    __slots__ = ("_rest", "_signo")

    _signo: builtins.int
    _rest: bytes

    @classmethod
    def make(
        cls,
        signal: builtins.int,
        code: builtins.int | str = "SI_USER",
        **fields: builtins.int,
    ) -> SigInfo:
        """
        Make one up, for a test: C{SigInfo.make(SIGCHLD, "CLD_EXITED", pid=42)}.

        @param signal: The signal's number.
        @param code: Its code, or the name of one.
        @param fields: Others of the attributes above; what is not given is 0.
        @raise TypeError: For a field that there is not.
        @raise ValueError: For a code that has no such name, and for a number that a
            record has no room for.
        """
        number = codeNumber(code) if isinstance(code, str) else code
        (info,) = parse(pack(signo=signal, code=number, **fields))
        return info

    # Kept decoded: the dispatcher asks every signal for it.
    signo: Final = cast(builtins.int, property(attrgetter("_signo")))
    errno: Final = field("errno")
    code: Final = field("code")
    pid: Final = field("pid")
    uid: Final = field("uid")
    fd: Final = field("fd")
    tid: Final = field("tid")
    band: Final = field("band")
    overrun: Final = field("overrun")
    trapno: Final = field("trapno")
    status: Final = field("status")
    int: Final = field("int")
    ptr: Final = field("ptr")
    utime: Final = field("utime")
    stime: Final = field("stime")
    addr: Final = field("addr")
    addr_lsb: Final = field("addr_lsb")
    syscall: Final = field("syscall")
    call_addr: Final = field("call_addr")
    arch: Final = field("arch")

    def __getattr__(self, name: str) -> builtins.int:
        """
        The names with C{ssi_}, for programs written for python-signalfd.
        """
        short = name.removeprefix("ssi_")
        if short != name and short in LAYOUT:
            return cast(builtins.int, getattr(self, short))
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __dir__(self) -> list[str]:
        # Programs for PyPI's signalfd make a dict of all that dir() tells.
        return [*super().__dir__(), *(f"ssi_{name}" for name in LAYOUT)]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SigInfo):
            return self._signo == other._signo and self._rest == other._rest
        return NotImplemented

    def __hash__(self) -> builtins.int:
        return hash((self._signo, self._rest))

    @property
    def signal(self) -> Signals | builtins.int:
        """
        The signal as Python's enumeration has it, or its number.
        """
        return toSignal(self._signo)

    @property
    def name(self) -> str:
        """
        The signal's name, as L{signalName <txsignalfd._native.names.signalName>}
        gives it.
        """
        return signalName(self._signo)

    @property
    def codeName(self) -> str:
        """
        The name of C{code} for this signal, such as C{SI_USER} or
        C{CLD_EXITED}, or the number as text where it has none.
        """
        code = self.code
        return codeName(self._signo, code) or str(code)

    @property
    def sender(self) -> Sender | None:
        """
        The process that sent it, or C{None} where the code names none: the
        kernel did, or a timer.
        """
        if self.codeName not in _SENT_BY:
            return None
        return Sender(self.pid, self.uid, self.code in _VOUCHED and self.pid != 0)

    @property
    def child(self) -> Child | None:
        """
        What happened to a child, or C{None} where no child is told of: also
        for a C{SIGCHLD} that a process sent.
        """
        code = self.code
        if self._signo != SIGCHLD or code not in _CLD:
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

    @property
    def value(self) -> builtins.int | None:
        """
        The int that sigqueue(3) sent, or C{None} where that was not the way.
        """
        code, value = _codeAndInt(self._rest)
        return value if code == _SI_QUEUE else None

    def __str__(self) -> str:
        return describe(self)

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in LAYOUT)
        told = " ".join(f"{name}={value}" for name, value in fields if value)
        return f"<SigInfo {self.name} {told}>"


def describe(info: SigInfo, command: str | None = None) -> str:
    """
    A line for an operator: C{SIGHUP from pid 4242 (uid 1000) by kill}.

    @param info: A signal.
    @param command: What program its sender runs, to be told with its pid.
    """
    return f"{info.name} {_origin(info, command)}"


def _origin(info: SigInfo, command: str | None) -> str:
    code = info.codeName
    if (sender := info.sender) is not None:
        who = f"pid {sender.pid}" if sender.pid else "a process unknown here"
        value = "" if info.value is None else f", value {info.value}"
        whose = f"{command}, " if command else ""
        claim = ", it says" if sender.pid and not sender.vouched else ""
        return f"from {who} ({whose}uid {sender.uid}{claim}) by {_SENT_BY[code]}{value}"
    if (child := info.child) is not None:
        how = _CHILD_DID.get(code, "exited with status")
        what = str(child.exitCode) if child.signal is None else signalName(child.signal)
        return f"from the kernel: child {child.pid} {how} {what}"
    if code == "SI_TIMER":
        return f"from POSIX timer {info.tid}, overrun {info.overrun}, value {info.int}"
    if code == "SI_KERNEL":
        return "from the kernel"
    if code == "SI_SIGIO" or code.startswith("POLL_"):
        return f"from the kernel: descriptor {info.fd} is ready ({code})"
    return f"with code {code}"


def parse(buffer: bytes | bytearray | memoryview) -> list[SigInfo]:
    """
    Take records apart, as read(2) gives them for a signalfd.

    @param buffer: Any number of whole records.
    @return: One L{SigInfo} for each, in order.
    @raise ValueError: When the length is no multiple of L{SIGINFO_SIZE}.  Then
        nothing is parsed.
    """
    # With an __init__ it would take half as long again.
    try:
        if len(buffer) == SIGINFO_SIZE:  # as nearly always, and a third quicker
            info = SigInfo()
            info._signo, info._rest = RECORD.unpack(buffer)
            return [info]
        infos = []
        for signo, rest in RECORD.iter_unpack(buffer):
            info = SigInfo()
            info._signo = signo
            info._rest = rest
            infos.append(info)
    except struct.error:
        # Of an array, or a view of one, len() is no number of bytes.
        raw = memoryview(buffer)
        if raw.nbytes != len(buffer):
            return parse(raw.cast("B"))
        raise ValueError(
            f"{raw.nbytes} bytes are no whole number of records of {SIGINFO_SIZE} bytes"
        ) from None
    return infos
