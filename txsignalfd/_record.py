# -*- test-case-name: tests.test_siginfo -*-
"""
Where each field of a record of signalfd(2) is, as the compiler has it.
"""

from __future__ import annotations

import struct
from typing import Final, cast

from txsignalfd._native import ffi

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


def field(name: str) -> int:
    """
    The attribute of C{SigInfo} that reads one field from its record.  A real
    C{property}, because the interpreter has a fast path for those; its type is
    told as that of what it gives.
    """
    offset, code = LAYOUT[name]
    offset -= _SIGNO_SIZE
    unpack = struct.Struct("=" + code).unpack_from
    return cast(int, property(lambda self: unpack(self._rest, offset)[0]))
