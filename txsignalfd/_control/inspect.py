# -*- test-case-name: tests.control.test_inspect -*-
"""
C{python -m txsignalfd [--json] [PID]}: show what a process does with each signal.

L{txsignalfd._proc.report} shows an example of the output.  Without a PID, the
command describes the signal state that it inherited, which is what the shell or
the supervisor passes to every program, and names the default backend.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from txsignalfd._control.arguments import INSPECT, addInspectArguments
from txsignalfd._proc.report import startToText, toJSON, toText
from txsignalfd._proc.status import atStart, ofProcess
from txsignalfd._version import __version__


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m txsignalfd"
) -> int:
    """
    Run the command.

    @param arguments: The command line without the program; by default that of
        C{sys.argv}.
    @param prog: The name of the program.
    @return: The exit status: 0, or 1 if the process cannot be inspected.
    @raise SystemExit: With status 2 for wrong arguments.
    """
    parser = ArgumentParser(prog=prog, description=INSPECT)
    addInspectArguments(parser)
    parser.add_argument(
        "--version", action="version", version=f"txsignalfd {__version__}"
    )
    options = parser.parse_args(arguments)
    try:
        if options.pid is not None:
            process = ofProcess(options.pid)
            text, data = toText(process), toJSON(process)
        else:
            # This imports Twisted, and nothing else here does.
            from txsignalfd._dispatch.backends import bestBackend, checkBackend

            process = atStart()
            backend = checkBackend(None) or bestBackend()
            text = f"{startToText(process)}\ndefault backend: {backend}"
            data = {**toJSON(process), "backend": backend}
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        print(f"{parser.prog}: {why}", file=sys.stderr)
        return 1
    print(json.dumps(data) if options.json else text)
    return 0
