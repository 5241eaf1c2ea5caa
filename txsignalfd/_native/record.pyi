# The extension of record.c: what its class is to a type checker.

import builtins
from typing import Final

from typing_extensions import Self

class Record:
    """
    A record of signalfd(2), whose fields are decoded when they are read.
    """

    def __new__(cls, buffer: bytes | bytearray | memoryview, /) -> Self: ...
    @classmethod
    def _parse(cls, buffer: bytes | bytearray | memoryview, /) -> list[Self]: ...
    @classmethod
    def _read(cls, fd: builtins.int, /) -> list[Self]: ...
    value: Final[builtins.int | None]
    signo: Final[builtins.int]
    errno: Final[builtins.int]
    code: Final[builtins.int]
    pid: Final[builtins.int]
    uid: Final[builtins.int]
    fd: Final[builtins.int]
    tid: Final[builtins.int]
    band: Final[builtins.int]
    overrun: Final[builtins.int]
    trapno: Final[builtins.int]
    status: Final[builtins.int]
    int: Final[builtins.int]
    ptr: Final[builtins.int]
    utime: Final[builtins.int]
    stime: Final[builtins.int]
    addr: Final[builtins.int]
    addr_lsb: Final[builtins.int]
    syscall: Final[builtins.int]
    call_addr: Final[builtins.int]
    arch: Final[builtins.int]
    ssi_signo: Final[builtins.int]
    ssi_errno: Final[builtins.int]
    ssi_code: Final[builtins.int]
    ssi_pid: Final[builtins.int]
    ssi_uid: Final[builtins.int]
    ssi_fd: Final[builtins.int]
    ssi_tid: Final[builtins.int]
    ssi_band: Final[builtins.int]
    ssi_overrun: Final[builtins.int]
    ssi_trapno: Final[builtins.int]
    ssi_status: Final[builtins.int]
    ssi_int: Final[builtins.int]
    ssi_ptr: Final[builtins.int]
    ssi_utime: Final[builtins.int]
    ssi_stime: Final[builtins.int]
    ssi_addr: Final[builtins.int]
    ssi_addr_lsb: Final[builtins.int]
    ssi_syscall: Final[builtins.int]
    ssi_call_addr: Final[builtins.int]
    ssi_arch: Final[builtins.int]
