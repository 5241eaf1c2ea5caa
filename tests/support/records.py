"""
Records of signalfd(2), made by hand.
"""

from __future__ import annotations

import struct
from signal import SIGHUP
from typing import Final

#: The offset and format of each field, from the man page and the kernel's header
#: rather than from the compiler, which the package asks.
FIELDS: Final = {
    "signo": (0, "I"),
    "errno": (4, "i"),
    "code": (8, "i"),
    "pid": (12, "I"),
    "uid": (16, "I"),
    "fd": (20, "i"),
    "tid": (24, "I"),
    "band": (28, "I"),
    "overrun": (32, "I"),
    "trapno": (36, "I"),
    "status": (40, "i"),
    "int": (44, "i"),
    "ptr": (48, "Q"),
    "utime": (56, "Q"),
    "stime": (64, "Q"),
    "addr": (72, "Q"),
    "addr_lsb": (80, "H"),
    "syscall": (84, "i"),
    "call_addr": (88, "Q"),
    "arch": (96, "I"),
}


def record(signo: int = SIGHUP, **fields: int) -> bytes:
    """
    Make a record with these fields, and 0 in all others.
    """
    buffer = bytearray(128)
    for name, value in {"signo": signo, **fields}.items():
        offset, layout = FIELDS[name]
        struct.pack_into("=" + layout, buffer, offset, value)
    return bytes(buffer)
