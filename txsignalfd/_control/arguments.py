# -*- test-case-name: tests.control.test_arguments -*-
"""
The arguments of the C{txsignalfd} command.

Its help, the completion of shells and the parser itself come from L{parser}.
"""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, ArgumentTypeError
from contextlib import suppress
from math import inf
from signal import SIGHUP, SIGTERM, SIGUSR1, SIGUSR2

from txsignalfd._twistd.serviceoptions import SERVICE_OPTIONS
from txsignalfd._version import __version__

#: The commands that ask a daemon: the signal whose action is wanted, and the help.
REQUESTS = {
    "reload": (SIGHUP, "reload the service, and wait until the new one serves"),
    "stop": (SIGTERM, "stop the daemon, and wait until it has ended"),
    "rotate": (SIGUSR1, "rotate the log files"),
    "upgrade": (SIGHUP, "replace the supervisor's program, and reload its workers"),
    "status": (SIGUSR2, "show what the daemon is doing"),
}

_TARGET = "a pid, the path of a pidfile, or unit:NAME (a unit of systemd)"

_JSON = "print one JSON object on one line"


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < inf:
            return value
    raise ArgumentTypeError(f"expected a number of seconds, 0 or more, got {text!r}")


def _processId(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"expected a process id, got {text!r}")


def parser() -> ArgumentParser:
    """
    Return a parser of the whole command line.
    """
    whole = ArgumentParser(
        prog="txsignalfd",
        description="Ask a daemon that twistd signalfd runs, supervise a program, or"
        " inspect a process.",
        epilog="Exit status: 0 done; 1 refused or failed, with the reason in one line;"
        " 2 the target cannot be asked.  txsignalfd PID inspects a process.",
    )
    whole.add_argument(
        "--version", action="version", version=f"txsignalfd {__version__}"
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in REQUESTS.items():
        command = commands.add_parser(name, help=text, description=f"{text}.")
        command.add_argument("target", metavar="TARGET", help=_TARGET)
        command.add_argument("--json", action="store_true", help=_JSON)
        command.add_argument(
            "--timeout",
            type=_seconds,
            metavar="SECONDS",
            help="how long to wait for the outcome [default: no limit]",
        )
        if name == "reload":
            command.add_argument(
                "--check",
                action="store_true",
                help="check the command line of the daemon first, and do not reload if"
                " that fails",
            )
    _addCheck(commands)
    _addSupervise(commands)
    text = "show what a process does with each signal"
    addInspectArguments(commands.add_parser("inspect", help=text, description=INSPECT))
    return whole


def _addCheck(commands: object) -> None:
    text = "make the service of a command line of twistd, without starting it"
    command = commands.add_parser(  # type: ignore[attr-defined]
        "check",
        help=text,
        description=f"{text}.",
        usage="txsignalfd check [-h] [--json] [options of twistd] PLUGIN ... | -y FILE",
    )
    command.add_argument("--json", action="store_true", help=_JSON)
    command.add_argument(
        "arguments",
        metavar="ARGUMENT",
        nargs="+",
        help="the arguments of twistd, with or without signalfd",
    )


#: The options of C{txsignalfd supervise} alone: the kind of the value, and the help.
_SUPERVISE = {
    "ready-after": (
        "SECONDS",
        "how long after the start of its reactor a program that opens no port serves",
    ),
    "pidfile": ("FILE", "write the pid of the supervisor to this file"),
    "logfile": ("FILE", "log to this file [default: stdout]"),
    "uid": ("USER", "run the program as this user"),
    "gid": ("GROUP", "run the program as this group"),
}


def _addSupervise(commands: object) -> None:
    text = "run a Python program in workers, and reload it"
    command = commands.add_parser(  # type: ignore[attr-defined]
        "supervise",
        help=text,
        description=f"{text}.",
        usage="txsignalfd supervise [options] [--] PROGRAM ...",
    )
    for option in SERVICE_OPTIONS:
        flag, text = f"--{option.name}", option.help
        if not option.kind:
            command.add_argument(flag, action="store_true", help=text)
        elif option.name == "workers":
            text += " [default: 1]"
            command.add_argument(flag, metavar=option.kind, default="1", help=text)
        else:
            command.add_argument(flag, metavar=option.kind, help=text)
    command.add_argument(
        "--on",
        metavar="SIGNAL=ACTION",
        action="append",
        default=[],
        help="the action of a signal, as for twistd signalfd (repeatable)",
    )
    for name, (kind, what) in _SUPERVISE.items():
        parse = _seconds if kind == "SECONDS" else str
        command.add_argument(f"--{name}", type=parse, metavar=kind, help=what)
    command.add_argument(
        "program",
        metavar="PROGRAM",
        nargs=REMAINDER,
        help="a console script, or python with a script or -m and a module,"
        " and its arguments",
    )


#: The description of C{txsignalfd inspect}.
INSPECT = (
    "Show what a process and its threads do with each signal: which are caught,"
    " ignored, blocked or pending, and the default action of others."
)


def addInspectArguments(command: ArgumentParser) -> None:
    """
    Add the arguments of C{txsignalfd inspect}.
    """
    command.add_argument(
        "pid",
        metavar="PID",
        type=_processId,
        nargs="?",
        help="the process; without it, the state that programs inherit from this"
        " shell or supervisor is shown",
    )
    command.add_argument("--json", action="store_true", help=_JSON)
