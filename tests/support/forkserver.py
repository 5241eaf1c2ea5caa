"""
Start programs of tests without the time that it takes to import Twisted.

Each process of pytest has one that imports what most programs import, once, and has
neither a reactor nor a thread.  It forks for each program; the child becomes what a
fresh interpreter would be with these modules loaded, and runs the program.  Without it,
these imports take two fifths of the CPU time of all tests.

Some programs need a fresh interpreter: those whose command line or environment is read
from /proc, those with other options of Python, and what programs start themselves.
With C{TXSIGNALFD_FRESH=1} in the environment of the tests all programs have one.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path
from signal import SIGKILL
from typing import Any, BinaryIO, Final, cast

#: The server of this run of the tests, if it has one.
current: ForkServer | None = None

#: The twistd of this environment.
TWISTD: Final = str(Path(sysconfig.get_path("scripts"), "twistd"))

#: The modules that are imported in advance.
MODULES: Final = (
    "twisted.application.app",
    "twisted.application.internet",
    "twisted.application.strports",
    "twisted.internet.asyncioreactor",
    "twisted.internet.endpoints",
    "twisted.internet.epollreactor",
    "twisted.plugin",
    "twisted.protocols.basic",
    "twisted.scripts.twistd",
    "twisted.web.server",
    "txsignalfd._control.check",
    "txsignalfd._control.command",
    "txsignalfd._start.environment",
    "txsignalfd._start.reacting",
    "txsignalfd._start.reloadable",
    "txsignalfd._start.running",
    "txsignalfd._start.supervised",
    "txsignalfd._twistd.daemon",
    "txsignalfd._twistd.making",
    "txsignalfd._twistd.workerdaemon",
)

#: The longest request, in bytes.
_MOST: Final = 200_000
_SERVER: Final = str(Path(__file__))


@contextmanager
def freshInterpreters() -> Iterator[None]:
    """
    Start each program with a fresh interpreter meanwhile.
    """
    global current
    server, current = current, None
    try:
        yield
    finally:
        current = server


class ForkedProcess:
    """
    A program that runs in a child of the server, used like C{subprocess.Popen}.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """
        Return the status, or C{None} while the program runs.
        """
        return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """
        Wait for the end, and return the status, which is negative for a signal.

        @param timeout: The most seconds to wait, or C{None}.
        """
        status = self._status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def kill(self) -> None:
        """
        Kill it by SIGKILL, unless its status is known.
        """
        if self.returncode is None:
            os.kill(self.pid, SIGKILL)

    def _status(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if poll.poll(timeout and timeout * 1000):
                status = self._server.ask({"reap": self.pid}, ())
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._pidfd)
        return self.returncode


class ForkServer:
    """
    The process that forks for each program.
    """

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._environment = _relevant(os.environ)
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in _OF_A_PROGRAM
        }
        more = ["coverage"] if os.environ.keys() & _MEASURED else []
        with other:
            subprocess.run(
                [sys.executable, _SERVER, str(other.fileno()), *more],
                env=own,
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                check=True,
            )

    def close(self) -> None:
        """
        End the process.
        """
        self._socket.close()

    def canRun(self, command: Sequence[str], environment: Mapping[str, str]) -> bool:
        """
        Whether a program needs no fresh interpreter.
        """
        return (
            _isPlain(command)
            and _relevant(environment) == self._environment
            and sum(map(len, [*command, *environment, *environment.values()])) < _MOST
        )

    def start(
        self,
        command: Sequence[str],
        directory: str,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        ownGroup: bool = False,
    ) -> ForkedProcess:
        """
        Start a program.

        @param descriptors: Its standard input, output and error.
        @param ownGroup: Whether it leads a process group.
        """
        request = {
            "command": list(command),
            "directory": directory,
            "environment": dict(environment),
            "ownGroup": ownGroup,
        }
        return ForkedProcess(self, self.ask(request, descriptors))

    def ask(self, request: dict[str, Any], descriptors: Sequence[int]) -> int:
        """
        Send a request, and return the answer.
        """
        socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        return int(self._socket.recv(100))


#: By these variables coverage measures a program.
_MEASURED: Final = {"COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}

#: Variables that the server may not have, as it would act on them itself.
_OF_A_PROGRAM: Final = {"PYTHONPATH", *_MEASURED}


def _relevant(environment: Mapping[str, str]) -> dict[str, str]:
    """
    Return the variables that are read when an interpreter starts, or by imports.
    """
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(("PYTHON", "TXSIGNALFD_", "LC_", "LANG", "LD_"))
        and name != "PYTHONPATH"
    }


def _isPlain(command: Sequence[str]) -> bool:
    """
    Whether it is twistd, or Python with the options that L{_run} knows.
    """
    if command[0] == TWISTD:
        return True
    options = [each for each in command[1:3] if each != "-u"]
    return command[0] == sys.executable and options[:1] in (["-c"], ["-m"])


def _serve(connection: socket.socket) -> dict[str, Any]:
    """
    Answer requests to the last one, and return the request in each child.
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, _MOST * 2, 3)
        if not message:
            sys.exit()
        request: dict[str, Any] = json.loads(message)
        if "reap" in request:
            answer = os.waitpid(request["reap"], 0)[1]
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                return request | {"descriptors": descriptors}
        for descriptor in descriptors:
            os.close(descriptor)
        connection.send(str(answer).encode())


def _become(request: dict[str, Any]) -> None:
    """
    Make this process what a fresh interpreter would be.
    """
    if request["ownGroup"]:
        os.setpgrp()
    for number, descriptor in enumerate(request["descriptors"]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    isUnbuffered = "PYTHONUNBUFFERED" in os.environ or "-u" in request["command"][1:3]
    for number, name in ((1, "stdout"), (2, "stderr")):
        old = getattr(sys, name)
        raw = FileIO(number, "wb", closefd=False)
        stream = TextIOWrapper(
            cast(BinaryIO, raw if isUnbuffered else BufferedWriter(raw)),
            old.encoding,
            old.errors,
            line_buffering=number == 2,
            write_through=isUnbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    added = request["environment"].get("PYTHONPATH", "")
    sys.path[:0] = [os.path.abspath(each) for each in added.split(":") if added]
    if os.environ.keys() & _MEASURED:
        import_module("coverage").process_startup()


def _run(command: list[str]) -> None:
    """
    Run a program as C{__main__}.
    """
    sys.orig_argv = [sys.executable, *command] if command[0] == TWISTD else command
    arguments = [each for each in command[:3] if each != "-u"] + command[3:]
    if arguments[0] == TWISTD:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(TWISTD))
        code = compile(Path(TWISTD).read_bytes(), TWISTD, "exec")
    else:
        _, option, what, *others = arguments
        sys.argv = [option, *others]
        if option == "-m":
            sys.path.insert(0, os.getcwd())
            runpy.run_module(what, run_name="__main__", alter_sys=True)
            return
        sys.path.insert(0, "")
        code = compile(what, "<string>", "exec")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(code, vars(main))
    except Exception as error:
        # Without the functions of this module.
        traceback = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error, traceback)
        sys.exit(1)


def _main() -> None:
    if os.fork():
        # Tests list the children of their process: the server is none.
        os._exit(0)
    sys.path.pop(0)
    for name in (*MODULES, *sys.argv[2:]):
        import_module(name)
    assert not {"twisted.internet.reactor", "twisted.plugins"} & {*sys.modules}
    gc.collect()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    _become(request)
    gc.unfreeze()
    _run(request["command"])


if __name__ == "__main__":
    _main()
