# -*- test-case-name: tests.test_siginfo -*-
"""
The names of signals, and of the codes that say how a signal was sent.

The compiler has filled in the codes: C{txs_codes} in C{_native/siginfo.c}.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from signal import Signals
from typing import Final

from txsignalfd._native.extension import ffi, lib

#: The first and the last realtime signal.  On a system without realtime signals,
#: the number after the last signal.
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


#: The names of codes by signal (0 for any signal) and code.
_NAMES: Final = dict(_readCodes())

#: The numbers of codes by name.
CODES: Final = {name: code for (_, code), name in _NAMES.items()}

_SIGNALS_WITH_CODES: Final = {signo for signo, _ in _NAMES} - {0}
_POLL_CODES: Final = {
    code: name for (_, code), name in _NAMES.items() if name.startswith("POLL_")
}


def signalName(signo: int) -> str:
    """
    Return a signal's name as kill(1) writes it: C{SIGHUP}, C{SIGRTMIN+3}.

    @param signo: The signal's number.
    @return: Its name, or the number as text if it has no name.
    """
    try:
        return Signals(signo).name
    except ValueError:
        if SIGRTMIN < signo < lib.TXS_NSIG:
            return f"SIGRTMIN+{signo - SIGRTMIN}"
        return str(signo)


def signalNumber(name: str) -> int:
    """
    Return the number of the signal that a user has named.

    @param name: C{HUP}, C{SIGHUP}, C{RTMIN+3}, C{RTMAX-2}, in upper or lower
        case, or a number.
    @raise ValueError: If no signal has that name or number.
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
    Return the member of Python's enumeration, or the number if it has none.
    """
    try:
        return Signals(signo)
    except ValueError:
        return signo


def codeName(signo: int, code: int) -> str | None:
    """
    Return a code's name in the C headers: C{SI_USER}, C{CLD_EXITED}.

    @param signo: The signal that has the code.
    @param code: The code.
    @return: C{None} if the code has no name.
    """
    name = _NAMES.get((signo, code)) or _NAMES.get((0, code))
    if name is None and signo not in _SIGNALS_WITH_CODES:
        # With F_SETSIG (fcntl(2)) any signal without codes of its own has the
        # codes of SIGPOLL.
        return _POLL_CODES.get(code)
    return name


def codeNumber(name: str) -> int:
    """
    Return the number of the code with that name.

    @raise ValueError: If no code has that name.
    """
    try:
        return CODES[name]
    except KeyError:
        raise ValueError(
            f"there is no code {name!r} on this system: it has {', '.join(CODES)}"
        ) from None
