# -*- test-case-name: tests.control.test_output -*-
"""
L{statusText}: the answer to C{txsignalfd status}, as an operator reads it::

    pid 4711 serves, up 1:02:03, txsignalfd 0.1.0
      twistd -n signalfd web --path www
      in /srv/example
    generations
      2 serves: 12 connections, tcp:0.0.0.0:8080
    reloads: 1 succeeded, 0 failed
      2026-01-31T12:00:00+00:00 reloaded in 0.012 s: generation 2 serves
        requested by SIGHUP from pid 4242 (bash, uid 0) by kill
    signals
      SIGHUP=reload: 1 received
    children: none
    workers: none
"""

from __future__ import annotations

import shlex
import sys
from datetime import timedelta
from typing import Any

from txsignalfd._control.output import coloured
from txsignalfd._proc.quoting import counted, printable

_BOLD = "1"


def statusText(status: dict[str, Any]) -> str:
    """
    Return the status as text.

    @param status: The answer of the daemon.
    @raise Exception: If the answer lacks parts that this version expects.
    """
    heading, *others = _heading(status)
    parts = [
        [heading, *others],
        ["generations", *map(_generation, status["generations"])],
        list(_reloads(status["reloads"])),
        ["signals", *(line for each in status["signals"] for line in _signal(each))],
        _children(status),
        [
            "workers",
            *map(_worker, status["workers"]),
            # Daemons of an older version have none.
            *map(_spareWorker, status.get("spareWorkers", ())),
        ],
    ]
    return "\n".join(line for part in parts for line in _part(*part))


def _part(heading: str, *lines: str) -> list[str]:
    title = heading if lines or ":" in heading else f"{heading}: none"
    return [
        coloured(printable(title), _BOLD, sys.stdout),
        *(f"  {printable(line)}" for line in lines),
    ]


def _heading(status: dict[str, Any]) -> list[str]:
    uptime = timedelta(seconds=int(status["uptime"]))
    state = "pid {pid} {state}, up {uptime}, txsignalfd {version}"
    return [
        state.format(**{**status, "uptime": uptime}),
        shlex.join(status["command"]),
        f"in {status['directory']}",
    ]


def _generation(generation: dict[str, Any]) -> str:
    connections = counted(generation["connections"], "connection")
    addresses = ", ".join(generation["addresses"]) or "no port"
    return f"{generation['number']} {generation['state']}: {connections}, {addresses}"


def _worker(worker: dict[str, Any]) -> str:
    line = (
        "{number} of generation {generation}, pid {pid}: {state}, {connections},"
        " {memory} MiB, up {uptime}"
    )
    shown = {
        "connections": counted(worker["connections"], "connection"),
        "memory": worker["memory"] >> 20,
        "uptime": timedelta(seconds=int(worker["uptime"])),
    }
    return line.format(**{**worker, **shown})


def _spareWorker(spare: dict[str, Any]) -> str:
    return "spare, pid {pid}: {state}, {size} MiB".format(
        **spare, size=spare["memory"] >> 20
    )


def _reloads(reloads: dict[str, Any]) -> list[str]:
    lines = [f"reloads: {reloads['succeeded']} succeeded, {reloads['failed']} failed"]
    for each in reloads["last"]:
        lines += [
            f"{each['time']} {each['outcome']}",
            f"  requested by {each['requester']}",
        ]
    return lines


def _signal(signal: dict[str, Any]) -> list[str]:
    action = f"={signal['action']}" if signal["action"] else ""
    own = f"action {signal['action']}"
    return [
        f"{signal['name']}{action}: {signal['received']} received",
        *(
            f"  {each['handler']} {each['overlap']}: {each['handled']} handled,"
            f" {each['running']} running, {each['waiting']} waiting,"
            f" {each['dropped']} dropped"
            for each in signal["handlers"]
            if each["handler"] != own
        ),
    ]


def _children(status: dict[str, Any]) -> list[str]:
    count, children = status["childCount"], status["children"]
    if count is None:
        return ["children: unknown on this system"]
    lines = [f"{each['pid']} {each['command']}" for each in children]
    more = [f"and {count - len(lines)} more"] if count > len(lines) else []
    return ["children", *lines, *more]
