# -*- test-case-name: tests.control.test_inspect -*-
"""
The effects of signals on a process, as text and as JSON.

L{toText} puts signals with the same effect into one row, and lists threads only
if they differ::

    pid 4711 (twistd): sleeping, 3 threads, 1 of 63304 signals queued for uid 1000
      pending                SIGHUP
      blocked, then caught   SIGHUP
      caught                 SIGINT SIGTERM
      ignored                SIGPIPE SIGXFSZ
      dies                   SIGKILL SIGUSR1 SIGUSR2 ... SIGRTMIN..SIGRTMAX
      dies with a core dump  SIGQUIT SIGILL SIGTRAP ...
      stops                  SIGSTOP SIGTSTP SIGTTIN SIGTTOU
      continues              SIGCONT
      ignored by default     SIGCHLD SIGURG SIGWINCH
    threads 4711 (twistd), 4712 4713 (worker)
      blocked                SIGHUP
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Final

from txsignalfd._native.names import SIGRTMAX, SIGRTMIN, signalName
from txsignalfd._proc.quoting import quoted
from txsignalfd._proc.status import (
    Disposition,
    Effect,
    Meaning,
    ProcessSignals,
    ThreadSignals,
)

_WIDTH: Final = 79
_LABEL: Final = "  {:<22} "

_WHY_UNKNOWN: Final = (
    "unknown: Python or one of its modules set the dispositions of these signals"
    " when it started, and the previous ones cannot be determined. Run grep SigIgn"
    " /proc/self/status in its place to see them."
)

#: Shorter runs of realtime signals are listed one by one.
_SHORTEST_RUN: Final = 3

#: The order of the rows.
_ROWS: Final = [
    (Disposition.CAUGHT, Effect.CAUGHT),
    (Disposition.IGNORED, Effect.IGNORED),
    (Disposition.UNKNOWN, Effect.UNKNOWN),
    (Disposition.DEFAULT, Effect.DIES),
    (Disposition.DEFAULT, Effect.DUMPS),
    (Disposition.DEFAULT, Effect.STOPS),
    (Disposition.DEFAULT, Effect.CONTINUES),
    (Disposition.DEFAULT, Effect.IGNORED),
]


def namesOf(signals: Iterable[int]) -> str:
    """
    Name signals, abbreviating runs: C{SIGHUP SIGRTMIN..SIGRTMAX}.

    @return: C{none} if there are none.
    """
    names: list[str] = []
    # Within a run, number and index grow alike.
    for _, run in groupby(enumerate(sorted(signals)), lambda pair: pair[1] - pair[0]):
        names += _namesOfRun([signo for _, signo in run])
    return " ".join(names) or "none"


def _namesOfRun(run: list[int]) -> Iterator[str]:
    realtime = [signo for signo in run if SIGRTMIN <= signo <= SIGRTMAX]
    if len(realtime) < _SHORTEST_RUN:
        realtime = []
    yield from (signalName(signo) for signo in run if signo not in realtime)
    if realtime:
        yield f"{signalName(realtime[0])}..{signalName(realtime[-1])}"


def _fill(text: str, first: str, others: str) -> str:
    # Names of signals stay in one piece.
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _row(label: str, signals: Iterable[int]) -> str:
    return _fill(namesOf(signals), _LABEL.format(label), _LABEL.format(""))


def _label(meaning: Meaning) -> str:
    label = meaning.effect.value
    if (meaning.disposition, meaning.effect) == (Disposition.DEFAULT, Effect.IGNORED):
        label = "ignored by default"
    return f"blocked, then {label}" if meaning.blocked else label


def table(process: ProcessSignals) -> list[str]:
    """
    Return the lines about the process, without those about its threads.
    """
    lines = []
    if process.main.shared:
        lines.append(_row("pending", process.main.shared))

    def order(meaning: Meaning) -> tuple[bool, int]:
        row = meaning.disposition, meaning.effect
        return not meaning.blocked, _ROWS.index(row)

    for _, group in groupby(sorted(process.meanings(), key=order), order):
        meanings = list(group)
        signals = [meaning.signo for meaning in meanings]
        lines.append(_row(_label(meanings[0]), signals))
    return lines


def _alike(threads: Iterable[ThreadSignals]) -> list[list[ThreadSignals]]:
    """
    Group the threads that have the same signals blocked and pending.
    """
    groups: dict[object, list[ThreadSignals]] = {}
    for thread in threads:
        key = thread.hasEnded or (thread.blocked, thread.pending)
        groups.setdefault(key, []).append(thread)
    return list(groups.values())


def threadLines(process: ProcessSignals) -> list[str]:
    """
    Return the lines about its threads, unless all are like the process.
    """
    groups = _alike(process.threads)
    if len(groups) == 1 and not process.main.pending:
        return []
    lines = []
    for group in groups:
        names = ", ".join(
            " ".join(str(thread.tid) for thread in named) + f" ({quoted(name)})"
            for name, named in groupby(group, lambda thread: thread.name)
        )
        plural = "s" if len(group) > 1 else ""
        ended = ": ended" if group[0].hasEnded else ""
        lines.append(_fill(f"thread{plural} {names}{ended}", "", "    "))
        if not ended:
            lines.append(_row("blocked", group[0].blocked))
        if group[0].pending and not ended:
            lines.append(_row("pending for it alone", group[0].pending))
    return lines


def _heading(process: ProcessSignals) -> str:
    main = process.main
    # The main thread may end before the others.
    states = [thread.state for thread in process.threads if not thread.hasEnded]
    facts = [(states or [main.state])[0]]
    if main.isInit:
        facts.append("init of its pid namespace")
    if main.isKernelThread:
        facts.append("a kernel thread")
    if len(process.threads) > 1:
        facts.append(f"{len(process.threads)} threads")
    facts.append(_queue(main))
    heading = f"pid {main.pid} ({quoted(main.name)}): {', '.join(facts)}"
    return _fill(heading, "", "    ")


def _queue(thread: ThreadSignals) -> str:
    limit = "" if thread.queueLimit is None else f" of {thread.queueLimit}"
    return f"{thread.queued}{limit} signals queued for uid {thread.uid}"


def toText(process: ProcessSignals) -> str:
    """
    Describe a process and its threads to people.
    """
    if process.hasEnded:
        return f"{_heading(process)}\n  Signals have no effect on it any more."
    return "\n".join([_heading(process), *table(process), *threadLines(process)])


def startToText(process: ProcessSignals) -> str:
    """
    Describe the result of L{txsignalfd._proc.status.atStart} to people.
    """
    heading = f"a program started here: {_queue(process.main)}"
    why = _fill(_WHY_UNKNOWN, "", "    ")
    return "\n".join([heading, *table(process), *threadLines(process), why])


def toJSON(process: ProcessSignals) -> dict[str, Any]:
    """
    Return a process and its threads as plain values for C{json.dumps}.
    """
    main = process.main
    return {
        "pid": main.pid,
        "name": main.name,
        "state": main.state,
        "uid": main.uid,
        "init": main.isInit,
        "kernelThread": main.isKernelThread,
        "queued": main.queued,
        "queueLimit": main.queueLimit,
        "signals": [meaning.toJSON() for meaning in process.meanings()],
        "threads": [
            {
                "tid": thread.tid,
                "name": thread.name,
                "state": thread.state,
                "blocked": [signalName(signo) for signo in sorted(thread.blocked)],
                "pending": [signalName(signo) for signo in sorted(thread.pending)],
            }
            for thread in process.threads
        ],
    }
