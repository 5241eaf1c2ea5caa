"""
Unused ports for real servers.

Some time passes until a server listens on a port that was chosen for it.  An
ephemeral port might be given to another program in between, which happens often
while other tests run.
"""

from __future__ import annotations

import socket
from itertools import cycle, islice

#: The runs of the tests that may share the system, and the ports of each run.
_RUNS, _SHARE = 50, 200

#: The first of these ports.  All are below ip_local_port_range.
_FIRST = 20_000


def _numberOfThisRun() -> int:
    """
    Return a number that no other run has.

    An abstract socket name reserves it until the process ends.
    """
    for number in range(_RUNS):
        with socket.socket(socket.AF_UNIX) as name:
            try:
                name.bind(f"\0txsignalfd-tests-{number}")
            except OSError:
                continue
            name.detach()
            return number
    raise AssertionError("too many runs of the tests")


_run = _numberOfThisRun()
_ports = cycle(range(_FIRST + _run * _SHARE, _FIRST + (_run + 1) * _SHARE))


def _isFree(number: int, family: int, kind: int) -> bool:
    with socket.socket(family, kind) as probe:
        try:
            probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", number))
        except OSError:
            return False
        return True


def freePort(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> int:
    """
    Return the number of a port that is not in use.
    """
    ports = islice(_ports, _SHARE)
    return next(number for number in ports if _isFree(number, family, kind))


def privilegedPort() -> int:
    """
    Return a free port below 1024.
    """
    ports = range(1023 - _run, 512, -_RUNS)
    return next(n for n in ports if _isFree(n, socket.AF_INET, socket.SOCK_STREAM))


def local(port: int) -> str:
    """
    Return the endpoint of a port of 127.0.0.1.
    """
    return f"tcp:{port}:interface=127.0.0.1"
