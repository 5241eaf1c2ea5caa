# -*- test-case-name: tests.test_procstatus -*-
"""
What a signal does to a process: signal(7).
"""

from __future__ import annotations

import signal
from enum import Enum
from typing import Any, Final, NamedTuple

from txsignalfd.names import signalName


class Disposition(Enum):
    """
    What a process has chosen to do with a signal.
    """

    DEFAULT = "default"
    IGNORED = "ignored"
    CAUGHT = "caught"
    #: Nothing can tell it.
    UNKNOWN = "unknown"


class Effect(Enum):
    """
    What becomes of a process when a signal is delivered.
    """

    CAUGHT = "caught"
    IGNORED = "ignored"
    UNKNOWN = "unknown"
    DIES = "dies"
    #: Where RLIMIT_CORE allows one.
    DUMPS = "dies with a core dump"
    STOPS = "stops"
    #: A process that is stopped goes on in any case, caught or ignored.
    CONTINUES = "continues"


#: The default actions of signal(7); the others', realtime too, is to die.
_DEFAULTS: Final[dict[int, Effect]] = {
    **dict.fromkeys(
        (
            signal.SIGQUIT,
            signal.SIGILL,
            signal.SIGTRAP,
            signal.SIGABRT,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGSEGV,
            signal.SIGXCPU,
            signal.SIGXFSZ,
            signal.SIGSYS,
        ),
        Effect.DUMPS,
    ),
    **dict.fromkeys((signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH), Effect.IGNORED),
    **dict.fromkeys(
        (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU), Effect.STOPS
    ),
    signal.SIGCONT: Effect.CONTINUES,
}


def defaultEffect(signo: int) -> Effect:
    """
    What a signal does to a process that has chosen nothing.
    """
    return _DEFAULTS.get(signo, Effect.DIES)


class Meaning(NamedTuple):
    """
    What a signal means to a process.

    @ivar signo: The signal's number.
    @ivar disposition: What the process has chosen.
    @ivar effect: What that comes to when the signal is delivered.
    @ivar blocked: Whether it waits until a thread unblocks it.
    @ivar pending: Whether one for the process waits already.
    """

    signo: int
    disposition: Disposition
    effect: Effect
    blocked: bool
    pending: bool

    def toJSON(self) -> dict[str, Any]:
        """
        The same as plain values, by the names that C{twistd signalfd} uses.
        """
        return {
            "signal": self.signo,
            "name": signalName(self.signo),
            "disposition": self.disposition.value,
            "effect": self.effect.value,
            "blocked": self.blocked,
            "pending": self.pending,
        }
