"""
Other threads, most of which start before a signal is watched.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from tests.support.reactors import DEADLINE

T = TypeVar("T")

#: By machine: the numbers of the system calls in which the tests' threads wait.
_NUMBERS = {
    "x86_64": {"pause": [34], "sigwait": [128], "read": [0], "poll": [7, 271]},
    "aarch64": {"pause": [73], "sigwait": [137], "read": [63], "poll": [73]},
}

knowingNumbers = pytest.mark.skipif(
    os.uname().machine not in _NUMBERS,
    reason="the numbers of this machine's system calls are not known here",
)


def waitsIn(name: str, thread: int) -> bool:
    """
    Return whether a thread of this process waits in a system call.
    """
    with open(f"/proc/self/task/{thread}/syscall", encoding="ascii") as file:
        number = file.read().split()[0]
    return number != "running" and int(number) in _NUMBERS[os.uname().machine][name]


def runIn(inThread: bool, function: Callable[[], T]) -> T:
    """
    Call a function, in this thread or in another.
    """
    if not inThread:
        return function()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(DEADLINE)


@contextmanager
def otherThread() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """
    Start a thread, and return a function that calls functions in it.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(DEADLINE)
        yield lambda function: pool.submit(function).result(DEADLINE)


@contextmanager
def busyThreads(count: int = 8) -> Iterator[list[threading.Thread]]:
    """
    Threads that block no signals and are always busy.
    """
    end = threading.Event()

    def run() -> None:
        while not end.wait(0.0001):
            sum(range(1000))

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        end.set()
        for thread in threads:
            thread.join()
