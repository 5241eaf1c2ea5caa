"""
A service manager that stores descriptors, and passes them to the next process.
"""

from __future__ import annotations

import array
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

from tests.support.daemons import Program, commandFor, program
from tests.support.servicemanager import ServiceManager

#: Give the inherited descriptors that the arguments name the numbers from 3 on, as
#: systemd does, and execute the rest of the command.
_PASS = """
import os, sys
names, fds, *command = sys.argv[1:]
fds = [os.dup2(int(fd), 100 + int(fd)) for fd in fds.split()]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
    os.set_inheritable(number, True)
os.closerange(3 + len(fds), 200)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)))
os.environ["LISTEN_FDNAMES"] = names
os.execvp(command[0], command)
"""


class DescriptorStore:
    """
    The stored descriptors, by name.
    """

    def __init__(self, directory: Path, limit: int = 10) -> None:
        self.directory = directory
        self.limit = limit
        self.stored: dict[str, int] = {}
        #: The messages of L{receive}.
        self.messages: list[dict[str, str]] = []
        self.manager = ServiceManager(str(directory / "notify"))

    def receive(self) -> None:
        """
        Do what the messages that have arrived ask for.
        """
        size = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4)
        while self.manager.hasMessage():
            data, ancillary, _, _ = self.manager.socket.recvmsg(4096, size)
            message = dict(line.split("=", 1) for line in data.decode().split("\n"))
            self.messages.append(message)
            for _, kind, content in ancillary:
                if kind == socket.SCM_RIGHTS:
                    (fd,) = array.array("i", content)
                    assert message["FDNAME"] not in self.stored
                    self.stored[message["FDNAME"]] = fd
            if "FDSTOREREMOVE" in message:
                os.close(self.stored.pop(message["FDNAME"]))

    def close(self) -> None:
        """
        Close the stored descriptors, as systemd does when the service has stopped.
        """
        self.manager.socket.close()
        while self.stored:
            os.close(self.stored.popitem()[1])

    @contextmanager
    def starting(self, *command: str) -> Iterator[Program]:
        """
        Run a daemon with the stored descriptors.
        """
        names = ":".join(self.stored)
        numbers = " ".join(map(str, self.stored.values()))
        environment = [f"NOTIFY_SOCKET={self.manager.name}", f"FDSTORE={self.limit}"]
        passing = [sys.executable, "-S", "-c", _PASS, names, numbers]
        for fd in self.stored.values():
            os.set_inheritable(fd, True)
        whole = commandFor(self.directory, *command)
        with program(self.directory, "env", *environment, *passing, *whole) as running:
            yield running
            # In order, so that its coverage is saved.
            if running.process.poll() is None:
                running.kill(SIGTERM)
            running.wait()
            self.receive()

    @contextmanager
    def serving(self, *command: str) -> Iterator[Program]:
        """
        Do the same, and wait until it serves.
        """
        with self.starting(*command) as running:
            running.waitForOutput(f"pid {running.pid} serves")
            yield running


@contextmanager
def descriptorStore(directory: Path, limit: int = 10) -> Iterator[DescriptorStore]:
    """
    Store descriptors for the processes of a service.
    """
    store = DescriptorStore(directory, limit)
    try:
        yield store
    finally:
        store.close()
