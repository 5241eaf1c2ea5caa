# -*- test-case-name: tests.control.test_supervise -*-
"""
C{txsignalfd supervise}: run a program in workers under a supervisor.

The supervisor is a twistd that runs C{signalfd --workers}, with a command line of its
own.  A worker is the same command again, and runs the program.
"""

from __future__ import annotations

import pwd
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

from txsignalfd._control.arguments import parser
from txsignalfd._twistd.serviceoptions import SERVICE_OPTIONS

#: The options of twistd.
_OF_TWISTD: Final = ("pidfile", "logfile")

_COMMAND: Final = "txsignalfd supervise"


def main(arguments: Sequence[str]) -> int:
    """
    Run the supervisor, or the program in a worker.

    @param arguments: The command line without C{txsignalfd supervise}.
    @return: The exit status: 2 if the command line is wrong.
    """
    from twisted.python.usage import UsageError

    from txsignalfd._workers.membership import membership
    from txsignalfd._workers.program import CannotRun

    try:
        options, program = _parsed(arguments)
        place = membership()
        if place is not None:
            _work(place, program, options)
        else:
            _supervise(program.interpreter, options)
    except (CannotRun, UsageError) as error:
        print(f"{_COMMAND}: {error}", file=sys.stderr)
        return 2
    return 0


def check(arguments: Sequence[str]) -> str:
    """
    Check a command line, as far as that is possible without running the program.

    @param arguments: The command line without C{txsignalfd supervise}.
    @return: The outcome in one line.
    """
    options, program = _parsed(arguments)
    _parseOptions(program.interpreter, options, isCheckOnly=True)
    program.check()
    return "no error found; the program was compiled, and not run"


def _parsed(arguments: Sequence[str]) -> tuple[Namespace, Any]:
    """
    Return the options, and the program.

    @raise CannotRun: If there is no such program, user or group.
    """
    from txsignalfd._workers.program import findProgram

    options = parser().parse_args(["supervise", *arguments])
    words = options.program
    program = findProgram(words[1:] if words[:1] == ["--"] else words)
    _user(options)
    return options, program


def _supervise(interpreter: list[str], options: Namespace) -> None:
    from twisted.scripts.twistd import runApp

    try:
        twistd = _parseOptions(interpreter, options)
    except SystemExit as error:
        # Its argument is the reason.  twistd itself would exit with 1.
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    runApp(twistd)


def _parseOptions(
    interpreter: list[str], options: Namespace, isCheckOnly: bool = False
) -> Any:
    """
    Return the options of twistd.
    """
    from txsignalfd._control.dryrun import ServerOptions
    from txsignalfd._start.implied import ImpliedOptions

    class SuperviseOptions(ServerOptions):
        """
        The options of twistd, with the program as its only plugin.
        """

        loadedPlugins: Any = {_Program.tapname: _Program}

        @property
        def subCommands(self) -> Any:
            return [(_Program.tapname, None, lambda: own, "")]

    own = ImpliedOptions(_Program, _arguments(options), _COMMAND)
    own.interpreter = interpreter
    twistd: Any = SuperviseOptions()
    # Read by our own options.
    twistd.isCheckOnly = isCheckOnly
    values = vars(options)
    given = [f"--{each}={values[each]}" for each in _OF_TWISTD if values[each]]
    twistd.parseOptions(["--nodaemon", "--pidfile=", *given, _Program.tapname])
    return twistd


class _Program:
    """
    Stands for the program where twistd and C{signalfd} expect a plugin.
    """

    tapname = "supervise"
    description = ""

    @staticmethod
    def options() -> Any:
        from twisted.python.usage import Options

        return Options()

    @staticmethod
    def makeService(options: Any) -> Any:
        from txsignalfd.tap import makeService

        return makeService(options)


def _arguments(options: Namespace) -> list[str]:
    """
    Return the arguments of C{twistd signalfd}.
    """
    found = [f"--on={each}" for each in options.on]
    for option in SERVICE_OPTIONS:
        value = vars(options)[option.name.replace("-", "_")]
        if option.kind and value is not None:
            found.append(f"--{option.name}={value}")
        elif value:
            found.append(f"--{option.name}")
    return found


def _work(place: Any, program: Any, options: Namespace) -> None:
    from txsignalfd._start.supervised import runProgram
    from txsignalfd._twistd.arguments import watchedPaths
    from txsignalfd._twistd.settings import DRAIN, checkSettings

    settings = checkSettings(
        # All other actions are those of the supervisor.
        [each for each in options.on if each.endswith("=leave")],
        DRAIN if options.drain is None else options.drain,
        DRAIN if options.stop_timeout is None else options.stop_timeout,
    )
    watched = None
    if options.watch or options.watch_path:
        watched = watchedPaths("--watch-path", options.watch_path or "")
    _shedPrivileges(options)
    runProgram(place, program, settings, watched, options.ready_after)


def _user(options: Namespace) -> tuple[int | None, int | None]:
    """
    Return the uid and the gid that the program is to have.

    @raise CannotRun: If there is no such user or group.
    """
    from twisted.python.util import gidFromString, uidFromString

    from txsignalfd._workers.program import CannotRun

    try:
        uid = None if options.uid is None else uidFromString(options.uid)
        gid = None if options.gid is None else gidFromString(options.gid)
        if uid is not None and gid is None:
            gid = pwd.getpwuid(uid).pw_gid
    except KeyError as error:
        raise CannotRun(f"--uid, --gid: {error.args[0]}") from None
    return uid, gid


def _shedPrivileges(options: Namespace) -> None:
    from twisted.python.util import switchUID

    try:
        switchUID(*_user(options))
    except OSError as error:
        raise SystemExit(f"{_COMMAND}: --uid, --gid: {error}") from None
