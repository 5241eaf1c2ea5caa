# -*- test-case-name: tests.test_siginfo -*-
"""
Where each field of a record of signalfd(2) is, as the compiler has it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
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
