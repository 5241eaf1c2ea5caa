# -*- test-case-name: tests.control.test_command -*-
"""
The C{txsignalfd} command: ask a daemon to reload, stop, rotate its log or report.

Exit status: 0 if the daemon did it, 1 if it refused or failed, with the reason in
one line, and 2 if it cannot be asked.  A command imports what it needs when it
runs: C{--help} imports nothing of Twisted.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Sequence
from signal import SIG_DFL, SIGHUP, SIGPIPE, SIGTERM, SIGUSR1, SIGUSR2, signal

from txsignalfd._version import __version__

TYPE_CHECKING = False  # see txsignalfd/__init__.py

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from txsignalfd._control.request import Answer, Request

_DONE, _FAILED, _CANNOT_ASK = 0, 1, 2

_TARGET_HELP = "a pid, the path of a pidfile, or unit:NAME (a unit of systemd)"

#: The commands that ask a daemon: the signal whose action is wanted, and the help.
_REQUESTS = {
    "reload": (SIGHUP, "reload the service, and wait until the new one serves"),
    "stop": (SIGTERM, "stop the daemon, and wait until it has ended"),
    "rotate": (SIGUSR1, "rotate the log files"),
    "status": (SIGUSR2, "show what the daemon is doing"),
}


def _seconds(text: str) -> float:
    from argparse import ArgumentTypeError
    from contextlib import suppress
    from math import inf

    with suppress(ValueError):
        if 0 <= (value := float(text)) < inf:
            return value
    raise ArgumentTypeError(f"expected a number of seconds, 0 or more, got {text!r}")


def _parser() -> ArgumentParser:
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="txsignalfd",
        description="Ask a daemon that twistd signalfd runs, or inspect a process.",
        epilog="Exit status: 0 done; 1 refused or failed, with the reason in one line;"
        " 2 the target cannot be asked.",
    )
    parser.add_argument(
        "--version", action="version", version=f"txsignalfd {__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in _REQUESTS.items():
        command = commands.add_parser(name, help=text, description=text + ".")
        command.add_argument("target", metavar="TARGET", help=_TARGET_HELP)
        command.add_argument(
            "--timeout",
            type=_seconds,
            metavar="SECONDS",
            help="how long to wait for the outcome [default: no limit]",
        )
        if name == "status":
            command.add_argument(
                "--json", action="store_true", help="print one JSON object on one line"
            )
    commands.add_parser(
        "inspect", help="show what a process does with each signal", add_help=False
    )
    commands.add_parser(
        "check",
        help="parse the options of twistd and make the service without starting it",
        add_help=False,
    )
    return parser


def run() -> None:
    """
    Run the command as a program.

    @raise SystemExit: With the exit status.
    """
    # Restore the actions that -X faulthandler or -X dev has replaced.
    faulthandler.disable()
    # End silently, as cat(1) does, when the reader closes the pipe.  The inherited
    # action of SIGPIPE is unknown (see atStart), so it cannot be restored.
    signal(SIGPIPE, SIG_DFL)
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @param arguments: The command line without the program; by default that of
        C{sys.argv}.
    @return: The exit status.
    @raise SystemExit: With status 2 for wrong arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    first = given[0] if given else ""
    if first == "check":
        from txsignalfd._control.check import main as check

        return check(given[1:])
    if first == "inspect" or not first or first == "--json" or first.isdecimal():
        from txsignalfd._control.inspect import main as inspect

        return inspect(given[1:] if first == "inspect" else given)
    options = _parser().parse_args(given)
    return _ask(options)


def _ask(options: Namespace) -> int:
    from txsignalfd._control.request import Request, TargetEnded
    from txsignalfd._control.target import CannotAsk, Target

    signo, _ = _REQUESTS[options.command]
    try:
        target = Target(options.target)
        try:
            target.checkCatches(signo)
            request = Request(target, signo, options.command)
            try:
                return _run(request, options)
            finally:
                request.close()
        finally:
            target.close()
    except CannotAsk as error:
        print(f"txsignalfd: {error}", file=sys.stderr)
        return _CANNOT_ASK
    except TargetEnded as error:
        if options.command == "stop":
            print(error)
            return _DONE
        print(f"txsignalfd: {error}", file=sys.stderr)
        return _FAILED


def _run(request: Request, options: Namespace) -> int:
    shown = ""

    def show(answer: Answer) -> None:
        nonlocal shown
        if answer.exitStatus is None:
            shown = _progress(answer.text, shown)

    answer = request.run(options.timeout, show)
    if shown:
        sys.stderr.write("\r\033[K")
    if options.command == "status" and answer.exitStatus == _DONE:
        print(answer.data if options.json else _statusText(answer.data))
    elif answer.exitStatus == _DONE:
        print(answer.text)
    else:
        print(f"txsignalfd: {answer.text}", file=sys.stderr)
    return answer.exitStatus or _DONE


def _progress(text: str, shown: str) -> str:
    """
    Show how far the daemon is, on a terminal only.
    """
    if text and sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
        return text
    return shown


def _statusText(data: str) -> str:
    """
    Return the answer to C{status} as an operator reads it.
    """
    import json

    status = json.loads(data)
    reloads = status["reloads"]
    lines = [
        "pid {pid} {state}, up {uptime:.0f} s, txsignalfd {version}".format(**status),
        *(
            "  generation {number} {state}: {connections} connections, ".format(**each)
            + (", ".join(each["addresses"]) or "no port")
            for each in status["generations"]
        ),
        "reloads: {succeeded} done, {failed} failed".format(**reloads),
        *("  {time} {outcome}; {requester}".format(**each) for each in reloads["last"]),
        "signals",
        *(
            "  {name}={action}: {handled} received".format(**s)
            for s in status["signals"]
        ),
        "children: {children}".format(**status),
    ]
    return "\n".join(lines)
