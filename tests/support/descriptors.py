"""
Descriptors under test, and the masks of threads as the kernel reports them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGRTMIN

import pytest

from tests.support.kernel import waitUntilReadable
from txsignalfd import SigInfo, SignalDescriptor
from txsignalfd._kernel.mask import ProcessMask
from txsignalfd._kernel.pipe import SignalPipe
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


@contextmanager
def pipeOf(*signals: int, claims: bool = True) -> Iterator[tuple[SignalPipe, Reads]]:
    """
    Open a pipe of two pages, and record the signals that it delivers.

    @param claims: Whether this thread receives its signals.
    """
    reads = Reads()
    pipe = SignalPipe(signals, reads.append)
    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 8192)
    if claims:
        pipe.claimForThread()
    try:
        yield pipe, reads
    finally:
        pipe.close()


def fill(pipe: SignalPipe) -> None:
    """
    Fill a pipe with records that only wake the reader.
    """
    with pytest.raises(BlockingIOError):
        while True:
            os.write(pipe._writer, bytes(128))


@contextmanager
def deferredFull() -> Iterator[None]:
    """
    Leave no space for more deferred signals.
    """
    mask = Owner().mask
    mask.acquire([SIGRTMIN])
    lib.txs_window_open()
    for _ in range(lib.TXS_DEFERRED):
        signal.raise_signal(SIGRTMIN)
    lib.txs_window_close()
    yield
    mask.restore([SIGRTMIN])


def drained(descriptor: SignalDescriptor, reads: Reads, count: int) -> Reads:
    """
    Read until C{count} signals were delivered.
    """
    while len(reads.infos) < count:
        waitUntilReadable(descriptor.fileno())
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


@contextmanager
def userBlocks(*signals: int) -> Iterator[None]:
    """
    Block signals, and check that they are the only blocked ones in the end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
        assert blockedSignals() == set(signals)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)


class Owner:
    """
    An owner of signals that records those that are deferred for it.
    """

    def __init__(self) -> None:
        self.deferred: list[SigInfo] = []
        self.mask = ProcessMask(self.defer, self.wake)

    def defer(self, infos: list[SigInfo]) -> None:
        self.deferred += infos

    def wake(self) -> None:
        """
        Do nothing.
        """
