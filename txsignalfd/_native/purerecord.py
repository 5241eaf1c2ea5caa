# -*- test-case-name: tests.native.test_record -*-
"""
The class L{Record} of C{record.c}, in Python.

It is for PyPy, and for comparison: C{TXSIGNALFD_PURE=1} in the environment chooses
it on CPython.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Final

from txsignalfd._native.extension import ffi, lib
from txsignalfd._native.names import CODES

#: The size of a record in bytes.
SIZE: Final[int] = ffi.sizeof("struct txs_siginfo")

_FORMATS: Final = {"uint16_t": "H", "int32_t": "i", "uint32_t": "I", "uint64_t": "Q"}

#: The offset of each field and its format for C{struct}, as the compiler has them.
LAYOUT: Final[dict[str, tuple[int, str]]] = {
    name.rstrip("_"): (where.offset, "=" + _FORMATS[where.type.cname])
    for name, where in ffi.typeof("struct txs_siginfo").fields
}

_SI_QUEUE: Final = CODES["SI_QUEUE"]


class Record:
    """
    A record of signalfd(2).

    Each field is a property, with and without its prefix C{ssi_}, that decodes it
    when it is read.
    """

    __slots__ = ("_bytes",)

    def __init__(self, buffer: bytes | bytearray | memoryview) -> None:
        """
        @param buffer: The bytes of one record.
        """
        self._bytes = bytes(memoryview(buffer))
        if len(self._bytes) != SIZE:
            raise ValueError(
                f"expected a record of {SIZE} bytes, got {len(self._bytes)} bytes"
            )

    @classmethod
    def _parse(cls, buffer: bytes | bytearray | memoryview) -> list[Record]:
        data = bytes(memoryview(buffer))  # its len() counts bytes
        if len(data) % SIZE:
            raise ValueError(
                f"expected whole records of {SIZE} bytes, got {len(data)} bytes"
            )
        return [cls(data[at : at + SIZE]) for at in range(0, len(data), SIZE)]

    @classmethod
    def _read(cls, fd: int) -> list[Record]:
        return cls._parse(os.read(fd, lib.TXS_RECORDS_PER_READ * SIZE))

    @property
    def value(self) -> Any:
        """
        The int that sigqueue(3) sent, or C{None} for any other signal.
        """
        fields: Any = self
        return fields.int if fields.code == _SI_QUEUE else None

    def __reduce__(self) -> tuple[type[Record], tuple[bytes]]:
        return type(self), (self._bytes,)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._bytes == other._bytes
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self._bytes)


def _field(offset: int, layout: str) -> property:
    """
    Return the property that decodes one field.
    """
    decode = struct.Struct(layout).unpack_from
    return property(lambda self: decode(self._bytes, offset)[0])


for _name, _where in LAYOUT.items():
    for _each in (_name, f"ssi_{_name}"):
        setattr(Record, _each, _field(*_where))
