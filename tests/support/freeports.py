"""
Ports for real servers, which nobody else has before these listen.

Some time passes until a server that was told a port listens there.  If it was
one that the system gives to whoever asks for any, as it does many times a second
while other tests run, it may be another's by then.
"""

from __future__ import annotations

import socket
from itertools import cycle, islice

#: So many runs of the tests may share the system, each with so many ports.
_RUNS, _SHARE = 50, 200

#: Where their ports begin: none of them is in ip_local_port_range.
_FIRST = 20_000


def _numberOfThisRun() -> int:
    """
    A number that no other run has.  An abstract name stands for it, which the
    kernel takes back when the process ends.
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
    The number of a port where nobody listens.
    """
    ports = islice(_ports, _SHARE)
    return next(number for number in ports if _isFree(number, family, kind))


def privilegedPort() -> int:
    """
    The same, below 1024.
    """
    ports = range(1023 - _run, 512, -_RUNS)
    return next(n for n in ports if _isFree(n, socket.AF_INET, socket.SOCK_STREAM))
