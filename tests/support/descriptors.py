"""
Descriptors under test, and the masks of threads as the kernel reports them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.kernel import waitFor
from txsignalfd import SigInfo, SignalDescriptor
from txsignalfd._native.extension import lib


class Reads(list[list[SigInfo]]):
    """
    The signals that a descriptor delivered, in one list for each read.
    """

    @property
    def infos(self) -> list[SigInfo]:
        """
        The signals of all reads.
        """
        return [info for infos in self for info in infos]

    @property
    def signals(self) -> list[int]:
        """
        The numbers of all signals.
        """
        return [info.signo for info in self.infos]

    @property
    def values(self) -> list[int | None]:
        """
        The values of all signals.
        """
        return [info.value for info in self.infos]


@contextmanager
def descriptorOf(*signals: int) -> Iterator[tuple[SignalDescriptor, Reads]]:
    """
    Open a descriptor, and record the signals that it delivers.
    """
    if not lib.TXS_LINUX:
        pytest.skip("this build has no signalfd(2)")
    reads = Reads()
    descriptor = SignalDescriptor(signals, reads.append)
    try:
        yield descriptor, reads
    finally:
        descriptor.close()


def drained(descriptor: SignalDescriptor, reads: Reads, count: int) -> Reads:
    """
    Read until C{count} signals were delivered.
    """
    while len(reads.infos) < count:
        waitFor(descriptor.fileno())
        descriptor.drain()
    return reads


def maskIn(status: Path, field: str) -> set[int]:
    """
    Return the signals of a mask in a status file of proc(5).
    """
    (line,) = (
        line
        for line in status.read_text("ascii", "replace").splitlines()
        if line.startswith(field + ":")
    )
    mask = int(line.split()[1], 16)
    return {signo for signo in range(1, 65) if mask >> (signo - 1) & 1}


def blockedSignals(thread: int | None = None) -> set[int]:
    """
    Return the signals that a thread blocks: the calling thread by default.
    """
    path = Path(f"/proc/self/task/{thread or threading.get_native_id()}/status")
    return maskIn(path, "SigBlk")


class Owner:
    """
    An owner of signals that records those that are deferred for it.
    """

    def __init__(self) -> None:
        self.deferred: list[SigInfo] = []

    def defer(self, infos: list[SigInfo]) -> None:
        self.deferred += infos

    def wake(self) -> None:
        """
        Do nothing.
        """
