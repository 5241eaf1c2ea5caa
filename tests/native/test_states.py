"""
Each row of the table of states in handler.c, with real signals and threads.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGRTMIN, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from tests.support.descriptors import (
    Reads,
    blockedSignals,
    deferredFull,
    descriptorOf,
    fill,
    pipeOf,
    userBlocks,
)
from tests.support.handlers import Handled, handling
from tests.support.kernel import checked, inChild, libc, refuse, systemCall
from tests.support.threads import otherThread
from tests.support.worlds import ME, needsLinux, queue, send
from txsignalfd import SignalDescriptor, spawning
from txsignalfd._kernel.doorbell import Doorbell
from txsignalfd._kernel.mask import collectDeferred
from txsignalfd._native import extension
from txsignalfd._native.extension import lib

TABLE = Path(extension.__file__).with_name("handler.c")

pytestmark = needsLinux


@pytest.mark.skipif(not TABLE.exists(), reason="a wheel has no C files")
def test_everyRowHasATest() -> None:
    """
    The names in the first column are those of the tests below.
    """
    text = TABLE.read_text()
    table = text[text.index("THE STATES") : text.index("* Rules.")]
    rows = re.findall(r"^ \*   ([a-z-]+)  ", table, re.MULTILINE)
    names = {re.sub("-(.)", lambda m: m[1].upper(), row) for row in rows}
    assert names
    names -= {"state", "-" * 7}  # the head of the table
    assert names - {name.partition("_")[2] for name in globals()} == set()


def interrupt(signo: int) -> Callable[[], set[int]]:
    """
    Return a function that signals its own thread, and returns what that blocks then.
    """

    def run() -> set[int]:
        signal.raise_signal(signo)
        return blockedSignals()

    return run


@contextmanager
def ringing(*signals: int) -> Iterator[tuple[SignalDescriptor, Reads, list[str]]]:
    """
    A descriptor with a doorbell, and a list that grows when it is answered.
    """
    reads, answers = Reads(), list[str]()
    doorbell = Doorbell(lambda: answers.append("ring"))
    descriptor = SignalDescriptor(signals, reads.append, doorbell=doorbell.fileno())
    try:
        yield descriptor, reads, answers
        doorbell.doRead()
    finally:
        descriptor.close()
        doorbell.close()


def handlerOf(signo: int) -> int:
    """
    Return the address of the installed C handler.
    """
    action = (ctypes.c_ulong * 32)()
    checked(libc.sigaction(signo, None, action))
    return action[0]


def test_unwatched() -> None:
    """
    Another signal than the watched one has the program's action.
    """
    with handling(SIGUSR2, Handled()) as calls, descriptorOf(SIGUSR1):
        send(SIGUSR2)
        assert calls == [SIGUSR2]


def test_watched() -> None:
    """
    The signal is deferred, the doorbell rings, and the thread blocks it.
    """
    with otherThread() as call, ringing(SIGUSR1) as (descriptor, reads, answers):
        assert SIGUSR1 in call(interrupt(SIGUSR1))
        assert lib.txs_deferred_count() == 1
        assert signal.sigpending() == set()
        descriptor.doRead()
        assert [info.pid for info in reads.infos] == [ME]
    assert answers == ["ring"]


def test_noDoorbell() -> None:
    """
    The signal goes back to the queue of the process, with its siginfo.
    """
    with otherThread() as call, descriptorOf(SIGUSR1) as (descriptor, reads):
        assert SIGUSR1 in call(interrupt(SIGUSR1))
        assert signal.sigpending() == {SIGUSR1}
        descriptor.doRead()
        assert [info.codeName for info in reads.infos] == ["SI_TKILL"]


def test_noSpace() -> None:
    """
    The signal is counted, and received without its siginfo.
    """
    systemCall("rt_sigqueueinfo")

    def received() -> tuple[list[tuple[int, int]], int]:
        refuse("rt_sigqueueinfo", 1)
        with otherThread() as call, descriptorOf(SIGUSR1) as (descriptor, reads):
            with deferredFull():
                call(interrupt(SIGUSR1))
                descriptor.drain()
            count = descriptor.withoutSiginfo
            return [(info.signo, info.pid) for info in reads.infos], count

    assert inChild(received) == ([(SIGUSR1, 0)], 1)


def test_requested() -> None:
    """
    The thread blocks the signal, and nothing is received.
    """
    with otherThread() as call, descriptorOf(SIGRTMIN) as (descriptor, reads):
        assert SIGRTMIN in call(blockedSignals)
        assert lib.txs_unanswered(0) == 0
        descriptor.drain()
        assert reads.infos == []


def test_blocked() -> None:
    """
    The signal stays queued, and no handler runs.
    """
    with descriptorOf(SIGUSR1) as (descriptor, reads):
        send(SIGUSR1)
        assert lib.txs_deferred_count() == 0
        assert signal.sigpending() == {SIGUSR1}
        descriptor.doRead()
        assert len(reads.infos) == 1


@pytest.mark.parametrize("arguments", [(), (None, None), (8, 16)])
def test_chained(arguments: tuple[int | None, ...]) -> None:
    """
    The signal is received once, whatever the handler was called with.
    """
    with otherThread() as call, ringing(SIGUSR1) as (descriptor, reads, answers):
        types = [ctypes.c_void_p] * len(arguments)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int, *types)(handlerOf(SIGUSR1))
        call(lambda: handler(SIGUSR1, *arguments))
        assert SIGUSR1 not in call(blockedSignals)
        descriptor.drain()
        assert reads.signals == [SIGUSR1]
    assert answers == ["ring"]


def test_window() -> None:
    """
    The signal is deferred, and received afterwards.
    """
    with descriptorOf(SIGUSR1) as (descriptor, reads):
        with spawning():
            signal.raise_signal(SIGUSR1)
            assert lib.txs_deferred_count() == 1
            assert SIGUSR1 not in blockedSignals()
        descriptor.doRead()
        assert len(reads.infos) == 1


def test_windowFull() -> None:
    """
    The last signal that can be deferred blocks the others in the kernel.
    """
    with descriptorOf(SIGRTMIN) as (descriptor, reads):
        with spawning():
            queue(*range(lib.TXS_DEFERRED + 1))
            assert lib.txs_deferred_count() == lib.TXS_DEFERRED
            assert signal.sigpending() == {SIGRTMIN}
        descriptor.drain()
        assert reads.values == list(range(lib.TXS_DEFERRED + 1))


def test_owner() -> None:
    """
    The signal is in the pipe, and the thread does not block it.
    """
    with pipeOf(SIGUSR1) as (pipe, reads):
        send(SIGUSR1)
        assert SIGUSR1 not in blockedSignals()
        assert lib.txs_deferred_count() == 0
        pipe.doRead()
        assert len(reads.infos) == 1


def test_throttled() -> None:
    """
    The thread blocks all signals of the pipe until that has been read.
    """
    with pipeOf(SIGRTMIN, SIGUSR1) as (pipe, reads):
        queue(*range(100))
        assert blockedSignals() == {SIGRTMIN, SIGUSR1}
        while len(reads.infos) < 100:
            pipe.doRead()
        assert blockedSignals() == set()
        assert reads.values == list(range(100))


def test_notOwner() -> None:
    """
    The signal is in the pipe, and the thread blocks it: from then on only the
    reactor's thread receives it.
    """
    with otherThread() as call, pipeOf(SIGUSR1) as (pipe, reads):
        assert call(interrupt(SIGUSR1)) == {SIGUSR1}
        assert blockedSignals() == set()
        assert lib.txs_deferred_count() == 0
        pipe.doRead()
        send(SIGUSR1)
        pipe.doRead()
        assert [info.codeName for info in reads.infos] == ["SI_TKILL", "SI_USER"]


def test_noRoom() -> None:
    """
    The signal is deferred, and the thread blocks it.
    """
    with otherThread() as call, pipeOf(SIGRTMIN, SIGUSR1) as (pipe, reads):
        fill(pipe)
        assert SIGUSR1 in call(interrupt(SIGUSR1))
        assert lib.txs_deferred_count() == 1
        queue(1, 2)
        assert SIGRTMIN in blockedSignals()
        while len(reads.infos) < 3:
            pipe.doRead()
        assert pipe.withoutSiginfo == 0
        (first,) = (info for info in reads.infos if info.signo == SIGUSR1)
        assert (first.codeName, first.pid) == ("SI_TKILL", ME)
        assert sorted(filter(None, reads.values)) == [1, 2]


def test_userBlocked() -> None:
    """
    The signal is received nevertheless, and a child has it blocked.
    """
    with userBlocks(SIGUSR1), pipeOf(SIGUSR1) as (pipe, reads):
        assert blockedSignals() == set()
        send(SIGUSR1)
        pipe.doRead()
        assert len(reads.infos) == 1
        with spawning():
            assert blockedSignals() == {SIGUSR1}
            send(SIGUSR1)
        pipe.doRead()
        assert len(reads.infos) == 2
        assert inChild(blockedSignals) == {SIGUSR1}
        pipe.drain()
        assert blockedSignals() == set()


@pytest.mark.parametrize("opened", [descriptorOf, pipeOf])
def test_child(opened: Any) -> None:
    """
    A child of clone(2), of which the C library knows nothing, dies of the signal.
    """
    number = systemCall("clone")
    with opened(SIGUSR1) as (descriptor, reads):
        pid = libc.syscall(number, signal.SIGCHLD, None, None, None, None)
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGUSR1])
            os.kill(os.getpid(), SIGUSR1)
            os._exit(1)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == SIGUSR1
        descriptor.drain()
        assert reads.infos == []


def test_released() -> None:
    """
    Code that has kept the handler's address gets the action from before.
    """
    with handling(SIGUSR1, Handled()) as calls:
        with descriptorOf(SIGUSR1):
            address = handlerOf(SIGUSR1)
        handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
        handler(SIGUSR1)
        assert calls == [SIGUSR1]
        collectDeferred()
        assert calls == [SIGUSR1]
        assert SIGUSR1 not in blockedSignals(threading.get_native_id())
