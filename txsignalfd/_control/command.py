# -*- test-case-name: tests.control.test_command -*-
"""
The C{txsignalfd} command: ask a daemon to reload, stop, rotate its log or report.

Exit status: 0 if the daemon did it, 1 if it refused or failed, with the reason in
one line, and 2 if it cannot be asked.  A command imports what it needs when it
runs.  C{--help} imports nothing: C{signal} and C{argparse} take as long as the start
of Python.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see txsignalfd/__init__.py

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from txsignalfd._control.output import Output
    from txsignalfd._control.request import Answer
    from txsignalfd._control.target import Target

_DONE, _FAILED, _CANNOT_ASK = 0, 1, 2

_HELP = (["-h"], ["--help"])


def run() -> None:
    """
    Run the command as a program.

    @raise SystemExit: With the exit status.
    """
    if sys.argv[1:2] not in (*_HELP, ["supervise"]):
        _restoreDispositions()
    sys.exit(main())


def _restoreDispositions() -> None:
    import faulthandler
    from signal import (
        SIG_DFL,
        SIGINT,
        SIGPIPE,
        default_int_handler,
        getsignal,
        signal,
    )

    # Restore the dispositions that -X faulthandler or -X dev has changed.
    faulthandler.disable()
    # End silently, as cat(1) does, when the reader closes the pipe.  The inherited
    # disposition of SIGPIPE is unknown (see atStart), so it cannot be restored.
    signal(SIGPIPE, SIG_DFL)
    if getsignal(SIGINT) is default_int_handler:
        signal(SIGINT, SIG_DFL)  # the same for ^C


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    @param arguments: The command line without the program; by default that of
        C{sys.argv}.
    @return: The exit status.
    @raise SystemExit: With status 2 for wrong arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    first, *others = given or [""]
    if [first] in _HELP:
        from txsignalfd._control.helptext import HELP

        print(HELP, end="")
        return _DONE
    if first == "check" and others and others[0] not in ("-h", "--help"):
        from txsignalfd._control.check import main as check

        return check(others)
    if first == "inspect":
        from txsignalfd._control.inspect import main as inspect

        return inspect(others, "txsignalfd inspect")
    if first == "supervise":
        from txsignalfd._control.supervise import main as supervise

        return supervise(others)
    if not first or first == "--json" or first.isdecimal():
        from txsignalfd._control.inspect import main as inspect

        return inspect(given)
    from txsignalfd._control.arguments import parser

    return _ask(parser().parse_args(given))


def _ask(options: Namespace) -> int:
    from txsignalfd._control.output import Output
    from txsignalfd._control.request import TargetEnded
    from txsignalfd._control.target import CannotAsk, Target

    output = Output(options.command, options.json)
    pid: int | None = None
    try:
        target = Target(options.target)
        pid = target.pid
        try:
            return _run(target, options, output)
        finally:
            target.close()
    except CannotAsk as error:
        return output.end(_CANNOT_ASK, str(error), pid)
    except TargetEnded as error:
        if options.command == "stop":
            return output.end(_DONE, str(error), pid)
        text = f"{error} before its answer: its log or its stderr may say why"
        return output.end(_FAILED, text, pid)


def _run(target: Target, options: Namespace, output: Output) -> int:
    from txsignalfd._control.arguments import REQUESTS

    if options.command == "reload" and options.check:
        why = _check(target, options, output)
        if why:
            return output.end(_FAILED, f"not reloaded: {why}", target.pid)
    signo, _ = REQUESTS[options.command]
    answer = _answer(target, signo, options.command, options.timeout, output)
    if options.command == "status" and answer.exitStatus == _DONE:
        return _showStatus(answer, output)
    return output.end(answer.exitStatus or _DONE, answer.text, target.pid)


def _check(target: Target, options: Namespace, output: Output) -> str:
    """
    Check the command line of a daemon.

    @return: Why it must not reload, or an empty string.
    """
    from signal import SIGUSR2

    from txsignalfd._control.targetcheck import check

    answer = _answer(target, SIGUSR2, "status", options.timeout, output)
    if answer.exitStatus != _DONE:
        return f"its command line is unknown: {answer.text}"
    reason = check(target.pid, answer.parsed(), options.timeout)
    return reason and f"the check has failed: {reason}"


def _answer(
    target: Target, signo: int, command: str, timeout: float | None, output: Output
) -> Answer:
    from txsignalfd._control.request import Request

    target.checkCatches(signo)
    request = Request(target, signo, command)
    try:
        return request.run(timeout, lambda answer: output.progress(answer.text))
    finally:
        request.close()


def _showStatus(answer: Answer, output: Output) -> int:
    import json

    from txsignalfd._control.statustext import statusText
    from txsignalfd._control.target import CannotAsk

    status = answer.parsed()
    if output.asJSON:
        output.show(json.dumps(status))
        return _DONE
    try:
        text = statusText(status)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise CannotAsk(
            f"the answer is not understood ({why}): is the daemon of another version?"
            " try --json"
        ) from None
    output.show(text)
    return _DONE
