"""
The class of records, in C and in Python: both are the same to their users.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import struct
import sys
from array import array
from collections.abc import Callable
from typing import Any, TypeAlias
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kernel import forked
from tests.support.processes import runPython
from tests.support.records import FIELDS, record
from txsignalfd._native import purerecord

#: A class of records.  A type checker knows only that of the extension.
Class: TypeAlias = Any

CLASSES: list[Class] = [purerecord.Record]
if sys.implementation.name == "cpython":
    from txsignalfd._native import record as native

    CLASSES.insert(0, native.Record)

both = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__module__)

records = st.binary(min_size=128, max_size=128)


# --- fields --------------------------------------------------------------------


@both
def test_fieldsHaveTheKernelsLayout(cls: Class) -> None:
    """
    Each field has its own offset, size and sign, under both of its names.
    """
    for name, (_, layout) in FIELDS.items():
        size = struct.calcsize("=" + layout) * 8
        signed = layout.islower()
        low, high = (-(2 ** (size - 1)), 2 ** (size - 1) - 1)
        for value in (low, high) if signed else (1, 2**size - 1):
            made = cls(record(**{"signo": 0, name: value}))
            assert {n: v for n in FIELDS if (v := getattr(made, n))} == {name: value}
            assert getattr(made, "ssi_" + name) == value


@both
@given(records)
def test_everyRecordIsReadByItsLayout(cls: Class, data: bytes) -> None:
    made = cls(data)
    for name, (offset, layout) in FIELDS.items():
        (expected,) = struct.unpack_from("=" + layout, data, offset)
        assert getattr(made, name) == getattr(made, f"ssi_{name}") == expected


@both
@pytest.mark.parametrize("number", [0, 7, -7, 2**31 - 1, -(2**31)])
def test_onlySigqueueSendsAValue(cls: Class, number: int) -> None:
    assert cls(record(code=-1, int=number)).value == number
    for code in (0, 1, -2, -6):
        assert cls(record(code=code, int=number)).value is None


@both
def test_dirListsBothNamesOfEachField(cls: Class) -> None:
    """
    Programs for PyPI's signalfd copy all attributes that C{dir} lists.
    """
    public = {name for name in dir(cls(record())) if not name.startswith("_")}
    assert public == FIELDS.keys() | {f"ssi_{name}" for name in FIELDS} | {"value"}


@both
@pytest.mark.parametrize(
    "name",
    ["nope", "ssi_", "ssi_nope", "ssi_ssi_pid", "ssi_pad2", "ssi_name", "errno_"],
)
def test_unknownAttributeIsAnAttributeError(cls: Class, name: str) -> None:
    """
    The error names the attribute, and C{hasattr} returns False.
    """

    class Mine(cls):  # type: ignore[misc]
        __slots__ = ()

    made = Mine(record())
    assert not hasattr(made, name)
    with pytest.raises(AttributeError) as caught:
        getattr(made, name)
    assert str(caught.value) == f"'Mine' object has no attribute {name!r}"


@both
def test_recordIsImmutable(cls: Class) -> None:
    data = record(pid=7)
    made = cls(data)
    for name in (*FIELDS, "ssi_pid", "value", "something", "__dict__"):
        with pytest.raises(AttributeError):
            setattr(made, name, 1)
        with pytest.raises(AttributeError):
            delattr(made, name)
    assert made == cls(data)


@both
def test_recordIsSmall(cls: Class) -> None:
    """
    It has neither a dictionary nor weak references.
    """
    made = cls(record())
    assert not hasattr(made, "__dict__")
    assert not hasattr(made, "__weakref__")


# --- values --------------------------------------------------------------------


@both
def test_recordIsEqualByValue(cls: Class) -> None:
    plain = record(pid=7)
    first, second = cls(plain), cls(bytearray(plain))
    assert first == second
    assert hash(first) == hash(second)
    for position in range(len(plain)):
        other = bytearray(plain)
        other[position] ^= 0x80
        changed = cls(other)
        assert first != changed
        assert {first: 1, second: 2, changed: 3} == {first: 2, changed: 3}


@both
@given(records, records)
def test_equalityIsThatOfTheBytes(cls: Class, one: bytes, other: bytes) -> None:
    first, second, again = cls(one), cls(other), cls(one)
    assert (first == second) == (one == other)
    assert (first != second) == (one != other)
    assert first == again
    assert hash(first) == hash(again)


@both
@pytest.mark.parametrize("other", [1, record(), None, "SIGHUP", (1, b""), object()])
def test_recordDiffersFromOtherTypes(cls: Class, other: object) -> None:
    """
    A comparison raises no error, and the other object may decide.
    """
    made = cls(record())
    assert made != other
    assert other != made
    assert made == mock.ANY


@both
def test_subclassesAreEqualByValueToo(cls: Class) -> None:
    class Mine(cls):  # type: ignore[misc]
        pass

    data = record(pid=7)
    assert Mine(data) == cls(data) == Mine(data)
    assert hash(Mine(data)) == hash(cls(data))
    assert Mine(data) != cls(record(pid=8))


@both
@pytest.mark.parametrize("compare", ["__lt__", "__ge__"])
def test_recordsHaveNoOrder(cls: Class, compare: str) -> None:
    made = cls(record())
    assert getattr(made, compare)(made) is NotImplemented


def throughPickle(protocol: int) -> Callable[[object], object]:
    return lambda value: pickle.loads(pickle.dumps(value, protocol))


@both
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, *map(throughPickle, range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_recordCanBeCopiedAndPickled(cls: Class, again: Callable[[Any], Any]) -> None:
    made = cls(bytes(range(128)))
    other = again(made)
    assert type(other) is cls
    assert other == made


# --- the constructor, and _parse -----------------------------------------------


@both
@pytest.mark.parametrize("length", [0, 127, 129, 256])
def test_constructorTakesOneRecord(cls: Class, length: int) -> None:
    with pytest.raises(
        ValueError, match=f"^expected a record of 128 bytes, got {length} bytes$"
    ):
        cls(bytes(length))
    for wrong in ((), (record(), record())):
        with pytest.raises(TypeError):
            cls(*wrong)
    with pytest.raises(TypeError):
        cls(record(), pid=1)


@both
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_parseAcceptsAnyBuffer(
    cls: Class, make: Callable[[bytes], bytes | bytearray | memoryview]
) -> None:
    """
    The order of the records stays.
    """
    made = [record(signo, pid=signo * 100) for signo in (3, 1, 64, 1)]
    parsed = cls._parse(make(b"".join(made)))
    assert [(each.signo, each.pid) for each in parsed] == [
        (3, 300),
        (1, 100),
        (64, 6400),
        (1, 100),
    ]


@both
@pytest.mark.parametrize("other", [None, 128, "x" * 128, [0] * 128, (0,) * 128])
def test_parseRefusesWhatIsNoBuffer(cls: Class, other: object) -> None:
    for call in (cls, cls._parse):
        with pytest.raises(TypeError, match="bytes-like"):
            call(other)


@both
def test_parseCountsBytesOfWiderItems(cls: Class) -> None:
    """
    An array, or a view of wider items, is parsed by its bytes.
    """
    made = record(10, pid=42)
    for count in (1, 4):  # 4 are as many numbers as a record has bytes
        for wide in (array("I", made * count), memoryview(made * count).cast("I")):
            assert cls._parse(wide) == cls._parse(made) * count
    for size in (64, 516):
        with pytest.raises(ValueError, match=f"got {size} bytes"):
            cls._parse(memoryview(bytes(size)).cast("I"))


@both
@given(st.lists(records, max_size=70))
def test_parseReturnsEachRecord(cls: Class, datas: list[bytes]) -> None:
    together = cls._parse(b"".join(datas))
    assert together == [cls(data) for data in datas]


@both
def test_readIsOsReadAndParse(cls: Class) -> None:
    """
    It reads at most 64 records, and raises the errors of C{os.read}.
    """
    reader, writer = os.pipe2(os.O_NONBLOCK)
    with open(reader, "rb"), open(writer, "wb", buffering=0) as pipe:
        with pytest.raises(BlockingIOError):
            cls._read(reader)
        data = b"".join(record(7, pid=pid) for pid in range(70))
        pipe.write(data)
        assert cls._read(reader) == cls._parse(data[: 64 * 128])
        assert cls._read(reader) == cls._parse(data[64 * 128 :])
        pipe.write(b"half")
        with pytest.raises(ValueError, match="got 4 bytes"):
            cls._read(reader)
        pipe.close()
        assert cls._read(reader) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        cls._read(-1)
    with pytest.raises(TypeError):
        cls._read("1")


class Interrupt(Exception):
    """
    Raised by a Python signal handler.
    """


@forked
@both
def test_readRunsSignalHandlersOfPython(cls: Class) -> None:
    """
    A read that waits goes on after a signal, unless its handler raises.
    """
    reader, writer = os.pipe()
    beats: list[int] = []

    def beat(*_: object) -> None:
        beats.append(1)
        if len(beats) == 2:
            os.write(writer, record(pid=7))
        if len(beats) == 4:
            raise Interrupt

    signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    assert cls._read(reader) == [cls(record(pid=7))]
    with pytest.raises(Interrupt):
        cls._read(reader)


@both
@pytest.mark.parametrize("length", [1, 4, 127, 129, 255, 257, 128 * 64 - 1])
def test_truncatedBufferIsAnError(cls: Class, length: int) -> None:
    with pytest.raises(
        ValueError, match=f"^expected whole records of 128 bytes, got {length} bytes$"
    ):
        cls._parse(bytes(length))


@both
def test_recordsOutliveTheirBuffer(cls: Class) -> None:
    buffer = bytearray(record(pid=7))
    (made,) = cls._parse(buffer)
    buffer[:] = bytes(256)
    assert made == cls(record(pid=7))


# --- memory --------------------------------------------------------------------


@both
def test_nothingLeaks(cls: Class) -> None:
    """
    Each instance holds its class, and its memory, only as long as it lives.
    """

    def use() -> None:
        (made, *_) = cls._parse(bytearray(record(pid=7) * 3))
        assert pickle.loads(pickle.dumps(made)) == cls(record(pid=7)) != 7
        hash(made)
        for wrong in (b"1", None):
            for call in (cls, cls._parse):
                with pytest.raises((TypeError, ValueError)):
                    call(wrong)

    def counts() -> tuple[int, int]:
        gc.collect()
        return sys.getrefcount(cls), sys.getallocatedblocks()

    use()
    classes, blocks = counts()
    rounds = 1000
    for _ in range(rounds):
        use()
    after = counts()
    assert after[0] == classes
    assert after[1] - blocks < rounds / 2


def test_eachInterpreterHasItsClass() -> None:
    """
    A class of another interpreter would be used without the lock of its own.
    """
    run = pytest.importorskip("_testcapi").run_in_subinterp
    reader, writer = os.pipe()
    code = (
        f"import os, sys; sys.path[:] = {sys.path}\n"
        "from txsignalfd.siginfo import SigInfo\n"
        "made = SigInfo.make(1, pid=7)\n"
        "assert made == SigInfo.make(1, pid=7) and made.ssi_pid == 7\n"
        f"os.write({writer}, str(id(SigInfo.__base__)).encode())\n"
    )
    assert run(code) == 0
    assert int(os.read(reader, 100)) != id(CLASSES[0])
    os.close(reader)
    os.close(writer)


# --- the choice ----------------------------------------------------------------

PRINT = """
import sys
from txsignalfd import SigInfo
print(SigInfo.__base__.__module__.rpartition(".")[2], SigInfo.make(1, pid=7, uid=5))
"""


@pytest.mark.parametrize(("value", "module"), [("1", "purerecord"), ("", "record")])
def test_theEnvironmentChooses(value: str, module: str) -> None:
    """
    A program receives the same signals with either class.
    """
    if len(CLASSES) == 1:
        module = "purerecord"
    printed = runPython("-c", PRINT, added={"TXSIGNALFD_PURE": value}, check=True)
    assert printed.stdout == f"{module} SIGHUP from pid 7 (uid 5) by kill\n"
