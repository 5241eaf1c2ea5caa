# -*- test-case-name: tests.twistd.test_report -*-
"""
L{report}: what a daemon is doing, for those who run it.

Each part is told by itself, and one that cannot be says why in its place: it
is when something is wrong that reports are asked for.  What there is much of is
cut short, for a log is no database::

    signals
      SIGHUP
        <bound method ReloadService.reload of ...> MERGE: 3 handled, 0 running, ...
      pid 4711 (twistd): sleeping, 2 threads, ...
    generations
      3: serves, 12 connections
    children of spawnProcess
      4712 sleep 1000, for example.Worker
    other children
      none
    delayed calls
      in 0.52 s: txsignalfd._twistd.systemd.Notifier._feed
      12 in 3.10 to 58.04 s: twisted.web.http.HTTPChannel.timeoutConnection
    threads
      MainThread 4711, which writes this
        File "/usr/bin/twistd", line 8, in <module>
          sys.exit(run())
"""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from twisted.python.reflect import qual, safe_repr

from txsignalfd._children.orphans import childProcesses
from txsignalfd._children.twistedprocesses import spawnedProcesses
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._proc.status import printable

_T = TypeVar("_T")

#: The most lines of a part, and the innermost frames of a thread.
_MOST: Final = 100

#: The most characters of a command.
_LONGEST: Final = 200


def report(dispatcher: SignalDispatcher, generations: Sequence[str]) -> str:
    """
    Tell of a daemon: its signals and their handlers with what they have done,
    the generations of its service, its children, its delayed calls, and what
    each thread is at.  Call it in the reactor's thread.  It raises nothing.

    @param dispatcher: Whose signals, and whose reactor's calls.
    @param generations: Lines, as they are to be shown.
    @return: A text of many lines.
    """
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "signals": lambda: str(dispatcher.describe()).splitlines(),
        "generations": lambda: generations,
        "children of spawnProcess": _spawned,
        "other children": _otherChildren,
        "delayed calls": lambda: _delayedCalls(dispatcher.reactor),
        "threads": _threads,
    }
    return "\n".join(_part(title, tell) for title, tell in parts.items())


def _part(title: str, tell: Callable[[], Iterable[str]]) -> str:
    try:
        lines = list(tell()) or ["none"]
    except Exception as error:
        lines = [f"cannot be told: {type(error).__name__}: {error}"]
    return "\n".join([title, *(textwrap.indent(line, "  ") for line in lines)])


def _each(items: Iterable[_T], tell: Callable[[_T], str]) -> list[str]:
    """
    A line for each of the first, and how many there are besides.
    """
    told = list(items)
    more = [f"and {len(told) - _MOST} more"] if len(told) > _MOST else []
    return [*map(tell, told[:_MOST]), *more]


def _spawned() -> list[str]:
    def tell(child: tuple[int, Any]) -> str:
        pid, transport = child
        protocol = getattr(transport, "proto", None)
        whose = "" if protocol is None else f", for {qual(type(protocol))}"
        return _processLine(pid) + whose

    return _each(sorted(spawnedProcesses().items()), tell)


def _otherChildren() -> list[str]:
    return _each(sorted(childProcesses() - set(spawnedProcesses())), _processLine)


def _processLine(pid: int) -> str:
    try:
        command = _read(pid, "cmdline").rstrip("\0").replace("\0", " ")
        # What has ended has no command line any more, and still has a name.
        command = command or f"({_read(pid, 'comm').rstrip()})"
        state = _read(pid, "stat").rpartition(") ")[2][0]
    except OSError as error:
        return f"{pid} cannot be told: {error.strerror}"
    ended = ", has ended" if state in "ZX" else ""
    return f"{pid} {printable(command)[:_LONGEST]}{ended}"


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
        return file.read()


def _delayedCalls(reactor: Any) -> list[str]:
    now = reactor.seconds()
    times: dict[str, list[float]] = {}
    for call in sorted(reactor.getDelayedCalls(), key=lambda call: call.getTime()):
        times.setdefault(_nameOf(call.func), []).append(call.getTime() - now)

    def tell(name: str) -> str:
        first, *others = times[name]
        if not others:
            return f"in {first:.2f} s: {name}"
        return f"{len(others) + 1} in {first:.2f} to {others[-1]:.2f} s: {name}"

    return _each(times, tell)


def _nameOf(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    if name is None:
        return printable(safe_repr(function))
    owner = getattr(function, "__self__", None)
    if owner is None:
        return f"{function.__module__}.{name}"
    # The class that has the method may be a base of that of the object.
    return f"{qual(type(owner))}.{name.rpartition('.')[2]}"


def _numberOf(thread: threading.Thread) -> int | None:
    if thread is threading.main_thread() and sys.platform == "linux":
        # In a daemon its native_id is still that of the process that has forked.
        return os.getpid()
    return thread.native_id


def _threads() -> list[str]:
    threads = {thread.ident: thread for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001
        thread = threads.get(ident)
        name = f"{thread.name} {_numberOf(thread)}" if thread else f"unnamed {ident:#x}"
        here = ", which writes this" if ident == threading.get_ident() else ""
        stack = "".join(traceback.format_stack(frame, _MOST))
        lines.append(f"{name}{here}\n{stack.rstrip()}")
    return lines
