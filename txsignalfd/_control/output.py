# -*- test-case-name: tests.control.test_output -*-
"""
L{Output}: the output of the command, for people or for programs.

Colours and a line that changes appear on a terminal only.  The text of a daemon is
not trusted: it may contain control sequences of a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from txsignalfd._proc.quoting import printable

_GREEN, _RED = "32", "31"

#: Return to the first column, and clear the line.
_CLEAR = "\r\033[K"


def _isTerminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """
    Return a text in a colour, if a stream shows colours.

    @param colour: The number of the colour in a control sequence.
    @param stream: Where the text will be written.
    """
    if not _isTerminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{colour}m{text}\033[m"


class Output:
    """
    The output of one command.
    """

    def __init__(self, command: str, asJSON: bool, prog: str = "txsignalfd") -> None:
        """
        @param command: The name of the command.
        @param asJSON: Whether a program reads the output.
        @param prog: The beginning of the line of an error.
        """
        self._command = command
        self._prog = prog
        self.asJSON = asJSON
        self._shown = ""

    def progress(self, text: str) -> None:
        """
        Show how far the daemon is: in place on a terminal, else in a new line.
        """
        if not text or self.asJSON or text == self._shown:
            return
        self._shown = text
        line = printable(text)
        isLive = _isTerminal(sys.stderr)
        sys.stderr.write(f"{_CLEAR}{line}" if isLive else f"{line}\n")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._shown and _isTerminal(sys.stderr):
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()

    def show(self, text: str) -> None:
        """
        Print a result of many lines.
        """
        self._clear()
        print(text)

    def end(self, exitStatus: int, text: str, pid: int | None = None) -> int:
        """
        Print the outcome.

        @param exitStatus: The exit status of the command.
        @param text: The outcome in one line.
        @param pid: The process that was asked, as far as known.
        @return: The exit status.
        """
        self._clear()
        if self.asJSON:
            outcome = {"command": self._command, "pid": pid}
            print(json.dumps({**outcome, "exitStatus": exitStatus, "text": text}))
        elif exitStatus:
            line = printable(f"{self._prog}: {text}")
            print(coloured(line, _RED, sys.stderr), file=sys.stderr)
        else:
            print(coloured(printable(text), _GREEN, sys.stdout))
        return exitStatus
