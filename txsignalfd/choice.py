# -*- test-case-name: tests.test_pipe -*-
"""
Which backend a dispatcher has its signals from: C{signalfd}, or where the system
has no signalfd(2) or refuses it, C{handler}.
"""

from __future__ import annotations

import os
from typing import Final

from txsignalfd.lowlevel import SFD_CLOEXEC, SignalfdUnavailable, signalfd

SIGNALFD: Final = "signalfd"
HANDLER: Final = "handler"

#: The environment's variable that names one where the program does not.
VARIABLE: Final = "TXSIGNALFD_BACKEND"


def checkBackend(name: str | None) -> str | None:
    """
    The backend that the program has named, or the environment.

    @return: C{None} for the best there is.
    @raise ValueError: For an unknown one.
    """
    where = "backend"
    if name is None:
        name = os.environ.get(VARIABLE) or None
        where = VARIABLE
    if name in (None, SIGNALFD, HANDLER):
        return name
    raise ValueError(
        f"{where} {name!r} is unknown: there are {SIGNALFD!r} and {HANDLER!r}"
    )


def bestBackend() -> str:
    """
    The name of the best backend that this system offers now.

    @raise OSError: When a descriptor cannot be had, for another reason.
    """
    try:
        os.close(signalfd(-1, [], SFD_CLOEXEC))
    except SignalfdUnavailable:
        return HANDLER
    return SIGNALFD
