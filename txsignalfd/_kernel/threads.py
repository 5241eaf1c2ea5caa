# -*- test-case-name: tests.kernel.test_threads -*-
"""
Reach the other threads of the process before realtime signals are watched.

The kernel may give a signal to any thread that does not block it.  The C handler then
passes it to the reader, but in the meantime the reader may have read a later one.  Only
realtime signals have an order, so for these every thread that exists is asked to block
them: it is sent one of the signals, with a siginfo by which the handler recognizes the
request.

A request interrupts a system call of the thread, as the first signal that the kernel
gives to it would do.  Threads that do not answer in time, as they are stopped, and
threads that are started meanwhile, block the signals when they get the first one.

Without requests, 3,000 signals of another process came out of order in 3 of 10 runs
with 8 threads, and in 7 to 9 of 10 with 200 threads; with requests, in none.  Threads
of a C library saw no more interrupted calls with requests than without: one for each
call of nanosleep(2) and epoll_wait(2), which the kernel does not restart, and none of
read(2) and futex(2).  With 200 threads, requests take 25 ms.

Rejected: requests for standard signals, too (they would interrupt threads for no gain).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from txsignalfd._native.extension import lib
from txsignalfd._native.names import SIGRTMIN

#: How many seconds to wait for answers.
PATIENCE: Final = 0.1
_PAUSE: Final = 0.0005

_TASKS: Final = "/proc/self/task"


def blockedIn(thread: int) -> int:
    """
    Return the signals that a thread blocks, as bits.

    @raise OSError: If the thread has ended.
    """
    with open(f"{_TASKS}/{thread}/status", "rb") as status:
        line = next(line for line in status if line.startswith(b"SigBlk:"))
    return int(line.split()[1], 16)


def blockInOthers(signals: Iterable[int]) -> None:
    """
    Make other threads block realtime signals that have just been acquired.

    Only one thread may call this at a time.
    """
    wanted = sum(1 << (signo - 1) for signo in signals if signo >= SIGRTMIN)
    if not wanted or not os.path.exists(_TASKS):
        return
    known = {lib.txs_tid()}
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # A thread that has not answered yet may have started others.
        answered = not lib.txs_unanswered(0)
        new = set(map(int, os.listdir(_TASKS))) - known
        if answered and not new:
            return
        for thread in new:
            with suppress(OSError):  # it has ended
                if missing := wanted & ~blockedIn(thread):
                    lib.txs_ask(thread, missing.bit_length(), wanted)
        known |= new
        # There is no event to wait for: the handlers answer, and wake no thread.
        time.sleep(_PAUSE)
