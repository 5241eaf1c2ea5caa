# -*- test-case-name: tests.test_siginfo -*-
"""
The names of signals, and of the codes that say how one came to be sent.

The codes are as the compiler sees them: see C{txs_codes} in C{_native/siginfo.c}.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from signal import Signals
from typing import Final

from txsignalfd._native.extension import ffi, lib

#: The first and the last realtime signal; beyond the last of all where there
#: are none.
SIGRTMIN: Final[int] = getattr(signal, "SIGRTMIN", lib.TXS_NSIG)
SIGRTMAX: Final[int] = getattr(signal, "SIGRTMAX", lib.TXS_NSIG)

_NAME: Final = re.compile(
    r"(?:SIG)?(?P<base>RTMIN(?=\+)|RTMAX(?=-)|[A-Z]+[0-9]*$)(?P<offset>[+-][0-9]+)?",
    re.IGNORECASE | re.ASCII,
)


def _readCodes() -> Iterator[tuple[tuple[int, int], str]]:
    index = 0
    while lib.txs_codes[index].name != ffi.NULL:
        entry = lib.txs_codes[index]
        yield (entry.signo, entry.code), ffi.string(entry.name).decode("ascii")
        index += 1


#: By signal (0: any signal) and code.
_NAMES: Final = dict(_readCodes())

#: The codes by their names.
CODES: Final = {name: code for (_, code), name in _NAMES.items()}

_SIGNALS_WITH_CODES: Final = {signo for signo, _ in _NAMES} - {0}
_POLL_CODES: Final = {
    code: name for (_, code), name in _NAMES.items() if name.startswith("POLL_")
}


def signalName(signo: int) -> str:
    """
    Name a signal as kill(1) does: C{SIGHUP}, C{SIGRTMIN+3}.

    @param signo: The signal's number.
    @return: Its name, or the number as text where it has none.
    """
    try:
        return Signals(signo).name
    except ValueError:
        if SIGRTMIN < signo < lib.TXS_NSIG:
            return f"SIGRTMIN+{signo - SIGRTMIN}"
        return str(signo)


def signalNumber(name: str) -> int:
    """
    The number of a signal that a user has named.

    @param name: C{HUP}, C{SIGHUP}, C{RTMIN+3}, C{RTMAX-2}, in any case, or a
        number.
    @raise ValueError: When no signal has that name or number.
    """
    if name.isdecimal() and name.isascii() and 0 < int(name) < lib.TXS_NSIG:
        return int(name)
    match = _NAME.fullmatch(name)
    signo = match and Signals.__members__.get("SIG" + match["base"].upper())
    if match and signo:
        number = signo + int(match["offset"] or 0)
        if not match["offset"] or SIGRTMIN <= number <= SIGRTMAX:
            return number
    raise ValueError(f"there is no signal {name!r}")


def toSignal(signo: int) -> Signals | int:
    """
    The signal as Python's enumeration has it, or its number.
    """
    try:
        return Signals(signo)
    except ValueError:
        return signo


def codeName(signo: int, code: int) -> str | None:
    """
    Name a code as the headers do: C{SI_USER}, C{CLD_EXITED}.

    @param signo: The signal that has it.
    @param code: The code.
    @return: C{None} where it has no name.
    """
    name = _NAMES.get((signo, code)) or _NAMES.get((0, code))
    if name is None and signo not in _SIGNALS_WITH_CODES:
        # F_SETSIG (fcntl(2)) gives the codes of SIGPOLL to any signal that
        # has none of its own.
        return _POLL_CODES.get(code)
    return name


def codeNumber(name: str) -> int:
    """
    The code of a name.

    @raise ValueError: When there is none.
    """
    try:
        return CODES[name]
    except KeyError:
        raise ValueError(
            f"there is no code {name!r} here; there are {', '.join(CODES)}"
        ) from None
