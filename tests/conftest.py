"""
Each test leaves the process as it found it.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Iterator
from typing import cast

import pytest
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from tests.reactors import KINDS, newReactor


def _signalState() -> dict[str, str]:
    """
    The mask and the dispositions, as the kernel has them.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        fields = dict(
            line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line
        )
    return {name: fields[name] for name in ("SigBlk", "SigIgn", "SigCgt", "ShdPnd")}


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the one that lists the others
    return found


def _children() -> str:
    children = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as listed:
                children.append(listed.read())
        except FileNotFoundError:
            continue  # a thread that has just ended
    return "".join(children)


def _state() -> dict[str, object]:
    return {
        "signals": _signalState(),
        "handlers": {signo: signal.getsignal(signo) for signo in signal.Signals},
        "descriptors": _descriptors(),
        "threads": set(threading.enumerate()),
        "children": _children(),
    }


@pytest.fixture(scope="session", autouse=True)
def whatIsKeptForGood() -> None:
    """
    What the C library and libuv take at first use, and keep.
    """
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    for kind in KINDS:
        with newReactor(kind):
            gc.collect()
    # What exists by now is not looked at again: it made each test slower.
    gc.freeze()


@pytest.fixture(autouse=True)
def nothingLeftBehind() -> Iterator[None]:
    """
    Mask, dispositions, descriptors, threads and children are after a test
    what they were before.
    """
    gc.collect()
    before = _state()
    yield
    gc.collect()
    assert _state() == before


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    """
    What is logged during the test.
    """
    events: list[LogEvent] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)
