"""
Programs that print which functions of the package run on the way of a signal.

C{python -m tests.support.walks reload PORT} prints one line for each function,
C{FILE FUNCTION}, in the order of the first calls.  A lambda or a generator
expression counts for its file alone.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.internet.protocol import ProcessProtocol
from twisted.logger import LogEvent, globalLogPublisher

import txsignalfd
from tests.support.reactors import DEADLINE
from txsignalfd import ChildReaper, SigInfo, dispatcherFor

HOUSE = Path(txsignalfd.__file__).parent

#: The functions that were called: file and first line.
_called: dict[tuple[str, int], None] = {}


def _note(frame: FrameType, event: str, argument: object) -> None:
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(str(HOUSE)):
        _called[code.co_filename, code.co_firstlineno] = None


def send(pid: int, signo: int) -> None:
    """
    Send a signal, and note every call of the package from now on.
    """
    sys.setprofile(_note)
    os.kill(pid, signo)


@cache
def _functions(path: str) -> dict[int, str]:
    """
    The qualified names of a file's functions, by their first lines.
    """
    found = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside = prefix
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = child.decorator_list[0] if child.decorator_list else child
                found[first.lineno] = prefix + child.name
                inside = f"{prefix}{child.name}."
            walk(child, inside)

    walk(ast.parse(Path(path).read_bytes()), "")
    return found


def finish() -> None:
    """
    Print what was noted.
    """
    sys.setprofile(None)
    for path, line in _called:
        name = _functions(path).get(line, "-")
        print(Path(path).relative_to(HOUSE).as_posix(), name, file=sys.__stdout__)
    sys.__stdout__.flush()  # type: ignore[union-attr]


def signalToHandler(reactor: Any) -> None:
    """
    A signal of this process to a handler.
    """

    def handler(info: SigInfo) -> None:
        finish()
        reactor.stop()

    dispatcherFor(reactor).addHandler(signal.SIGUSR1, handler)
    reactor.callWhenRunning(send, os.getpid(), signal.SIGUSR1)
    reactor.run()


def childToProcessExited(reactor: Any) -> None:
    """
    The SIGCHLD of a child to C{processExited}.
    """

    class Exited(ProcessProtocol):
        def processExited(self, reason: object) -> None:
            reactor.callLater(0, finish)
            reactor.callLater(0, reactor.stop)

    def start() -> None:
        # With pipes, Twisted would notice the exit when they close.
        program = ["sleep", str(DEADLINE)]
        sleep = reactor.spawnProcess(Exited(), "/bin/sleep", program, childFDs={})
        reactor.callLater(0, send, sleep.pid, signal.SIGKILL)

    ChildReaper(dispatcherFor(reactor))
    reactor.callWhenRunning(start)
    reactor.run(installSignalHandlers=False)


def reload(reactor: Any, port: str, *options: str) -> None:
    """
    A SIGHUP to the end of the old generation, under C{twistd signalfd web}.

    @param options: The options of C{signalfd}.
    """
    from twisted.scripts.twistd import run

    def observe(event: LogEvent) -> None:
        if "actions" in event:
            # It serves.
            reactor.callLater(0, send, os.getpid(), signal.SIGHUP)
        elif str(event.get("it")) == "generation 1":
            finish()
            os.kill(os.getpid(), signal.SIGTERM)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as directory:
        sys.argv = ["twistd", "--nodaemon", "--pidfile=", "--logfile", "/dev/null"]
        sys.argv += ["signalfd", *options]
        sys.argv += ["web", "--path", directory, "--listen", port]
        run()


if __name__ == "__main__":
    from twisted.internet import reactor

    walk, *arguments = sys.argv[1:]
    globals()[walk](reactor, *arguments)
