# -*- test-case-name: tests.control.test_inspect -*-
"""
C{python -m txsignalfd [--json] [PID]}: what a process does with each signal.

What it prints is shown in L{txsignalfd._proc.report}.  Without a PID it tells
what it was itself started with, which is what the shell or the supervisor
passes on to any program there, and which backend a dispatcher would have.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence

from txsignalfd._proc.report import startToText, toJSON, toText
from txsignalfd._proc.status import atStart, ofProcess


def _pid(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no process id")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Print it.

    @param arguments: The command line without the program; C{sys.argv}'s by
        default.
    @return: The exit status: 0, or 1 when it cannot be told.
    @raise SystemExit: With status 2 for arguments that make no sense.
    """
    parser = ArgumentParser(
        prog="python -m txsignalfd",
        description="Tell what a process and its threads do with each signal: what is"
        " caught, ignored, blocked or pending, and what the default would be.",
    )
    parser.add_argument(
        "pid",
        metavar="PID",
        type=_pid,
        nargs="?",
        help="the process; by default what a program is started with here, from the"
        " shell or the supervisor",
    )
    parser.add_argument("--json", action="store_true", help="as one object, a line")
    options = parser.parse_args(arguments)
    try:
        if options.pid is not None:
            process = ofProcess(options.pid)
            text, told = toText(process), toJSON(process)
        else:
            # Twisted is imported for this alone.
            from txsignalfd._dispatch.backends import bestBackend, checkBackend

            process = atStart()
            backend = checkBackend(None) or bestBackend()
            text = f"{startToText(process)}\nbackend: a dispatcher here has {backend}"
            told = {**toJSON(process), "backend": backend}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"{parser.prog}: {why}", file=sys.stderr)
        return 1
    print(json.dumps(told) if options.json else text)
    return 0
