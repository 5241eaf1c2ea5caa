# -*- test-case-name: tests.twistd.test_report -*-
"""
L{report}: describe what a daemon is doing, for its operators.

Each part is built separately.  If one part fails, the report gives the reason in
its place, because a report is needed most when something is wrong.  Long lists
are cut, to keep the log readable::

    signals
      SIGHUP
        txsignalfd._reload.service.ReloadService.reload MERGE: 3 handled, ...
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
      MainThread 4711, which writes this report
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
from typing import Any, Final, TypeVar

from twisted.python.reflect import qual

from txsignalfd._children.orphans import childProcesses
from txsignalfd._children.twistedprocesses import spawnedProcesses
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._kernel.callables import nameOf
from txsignalfd._proc.quoting import quoted
from txsignalfd._proc.sender import commandOf

_T = TypeVar("_T")

#: The most lines of a part, and the most frames of a thread.
_MOST: Final = 100

#: The most characters of a command.
_LONGEST: Final = 200


def report(dispatcher: SignalDispatcher, generations: Sequence[str]) -> str:
    """
    Describe a daemon: signals and handlers, generations, children, delayed
    calls, and the stack of each thread.

    Call this function in the reactor's thread.  It raises no exception.

    @param dispatcher: The dispatcher to describe, and its reactor.
    @param generations: The lines that describe the generations.
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
    return "\n".join(_part(title, build) for title, build in parts.items())


def _part(title: str, build: Callable[[], Iterable[str]]) -> str:
    try:
        lines = list(build()) or ["none"]
    except Exception as error:
        lines = [f"unavailable: {type(error).__name__}: {error}"]
    return "\n".join([title, *(textwrap.indent(line, "  ") for line in lines)])


def _cut(items: Iterable[_T], line: Callable[[_T], str]) -> list[str]:
    """
    Return a line for each of the first items, and the number of the others.
    """
    found = list(items)
    more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
    return [*map(line, found[:_MOST]), *more]


def _spawned() -> list[str]:
    def line(child: tuple[int, Any]) -> str:
        pid, transport = child
        protocol = getattr(transport, "proto", None)
        owner = "" if protocol is None else f", for {qual(type(protocol))}"
        return _processLine(pid) + owner

    return _cut(sorted(spawnedProcesses().items()), line)


def _otherChildren() -> list[str]:
    return _cut(sorted(childProcesses() - set(spawnedProcesses())), _processLine)


def _processLine(pid: int) -> str:
    try:
        command = _read(pid, "cmdline").rstrip("\0").replace("\0", " ")
        # A zombie has no command line, but it still has a name.
        name = (
            quoted(command[:_LONGEST])
            if command
            else f"({quoted(commandOf(pid) or '')})"
        )
        state = _read(pid, "stat").rpartition(") ")[2][0]
    except OSError as error:
        return f"{pid} unavailable: {error.strerror}"
    ended = ", has ended" if state in "ZX" else ""
    return f"{pid} {name}{ended}"


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
        return file.read()


def _delayedCalls(reactor: Any) -> list[str]:
    now = reactor.seconds()
    times: dict[str, list[float]] = {}
    for call in sorted(reactor.getDelayedCalls(), key=lambda call: call.getTime()):
        times.setdefault(nameOf(call.func), []).append(call.getTime() - now)

    def line(name: str) -> str:
        first, *others = times[name]
        if not others:
            return f"in {first:.2f} s: {name}"
        return f"{len(others) + 1} in {first:.2f} to {others[-1]:.2f} s: {name}"

    return _cut(times, line)


def _numberOf(thread: threading.Thread) -> int | None:
    if thread is threading.main_thread() and sys.platform == "linux":
        # After a fork, native_id is still that of the parent process.
        return os.getpid()
    return thread.native_id


def _threads() -> list[str]:
    threads = {thread.ident: thread for thread in threading.enumerate()}
    lines = []
    for ident, frame in sys._current_frames().items():  # noqa: SLF001
        thread = threads.get(ident)
        name = f"{thread.name} {_numberOf(thread)}" if thread else f"unnamed {ident:#x}"
        here = ", which writes this report" if ident == threading.get_ident() else ""
        stack = "".join(traceback.format_stack(frame, _MOST))
        lines.append(f"{name}{here}\n{stack.rstrip()}")
    return lines
