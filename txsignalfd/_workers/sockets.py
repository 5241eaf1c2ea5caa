# -*- test-case-name: tests.workers.test_sockets -*-
"""
L{Sockets}: the listening sockets of the supervisor.

A socket is bound when the first worker asks for its address.  It stays open as long
as any generation uses it: until each worker of the generation has closed it, or the
generation has ended.  The end of one worker therefore closes no socket, and the
connections in the listen queue wait for the other workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import Logger

from txsignalfd._reload.generation import Resources
from txsignalfd._reload.listener import Listener, SharedSocket
from txsignalfd._reload.ports import (
    SharedPort,
    TCPPort,
    UDPPort,
    UNIXDatagramPort,
    UNIXPort,
)
from txsignalfd._reload.stored import (
    PATHS,
    SocketStore,
    parseName,
    restore,
    storedOf,
    unlockOwn,
)
from txsignalfd._reload.transaction import Timer, attempt

_log: Final = Logger("txsignalfd.workers.Sockets")

#: Seconds in which a new generation may open a port that the old one has opened late.
LATE: Final = 30.0

#: The kind of port, its address, and a number that tells ports apart which ask for
#: any free port.
Key: TypeAlias = tuple[Any, ...]


class _NoServer(Factory):
    """
    Factory of a port that accepts nothing.
    """

    noisy = False

    def logPrefix(self) -> str:
        """
        Return the name for the log, which has a line when a socket is opened or closed.
        """
        return "Supervisor"


#: The class of each kind of port, its factory or protocol, and the options that it has.
_PORTS: Final[dict[str, tuple[Any, Callable[[], object], tuple[str, ...]]]] = {
    "TCP": (TCPPort, _NoServer, ("interface", "backlog")),
    "UDP": (UDPPort, DatagramProtocol, ("interface",)),
    "UNIX": (UNIXPort, _NoServer, ("backlog", "mode", "wantPID")),
    "UNIX datagram": (UNIXDatagramPort, DatagramProtocol, ("mode",)),
}


class _Entry:
    """
    An open socket, and its users.
    """

    def __init__(self, port: SharedPort, options: dict[str, Any]) -> None:
        self.port = port
        self.options = options
        #: The workers that use the socket, by generation.  What is reserved for a
        #: reload has no worker.
        self.users: dict[object, set[object]] = {}
        #: Whether a worker has opened the port after its start.
        self.isLate = False
        #: Whether its path was removed, and another socket is open for the key.
        self.isReplaced = False


class Sockets:
    """
    The listening sockets, by their keys.
    """

    def __init__(self, reactor: Any) -> None:
        """
        @param reactor: The reactor.
        """
        self._reactor = reactor
        self._entries: dict[Key, _Entry] = {}
        self._replaced = 0
        #: The users that stand for the next generation, after a failed reload that has
        #: left none: of the sockets that were opened during the start, and later.
        self._reserved: tuple[object, object] | None = None
        #: During a reload, the user that stands for the late ports of the next
        #: generation.
        self._late: object | None = None
        #: Where the sockets are stored for the next process.
        self.store: SocketStore | None = None
        #: The stored sockets that no worker has claimed yet, and whether they were
        #: opened late.
        self._restored: dict[Key, tuple[Listener, bool]] = {}

    def restore(self, store: SocketStore) -> None:
        """
        Offer the sockets that the previous process has stored, and store new ones.
        """
        self.store = store
        for listener, isLate in store.claim():
            listener.acquire(self)
            key: Any = listener.key
            interface = "" if key[0] in PATHS else key[1]
            self._restored[key[0], interface, key[-1]] = listener, isLate

    def started(self) -> None:
        """
        Close the stored sockets that the first workers have not claimed, and a while
        later those that were opened late.
        """
        self._closeRestored(lambda isLate: not isLate)
        if self._restored:
            Timer(self._reactor, LATE, self._closeRestored)

    def _closeRestored(
        self, isWanted: Callable[[bool], bool] = lambda isLate: True
    ) -> None:
        for key, (listener, isLate) in list(self._restored.items()):
            if isWanted(isLate):
                del self._restored[key]
                listener.release(self)

    def claim(
        self, key: Key, options: dict[str, Any], user: object, worker: object
    ) -> SharedSocket:
        """
        Return a duplicate of the socket at an address, which is bound if need be.

        @param key: The address.
        @param options: C{backlog}, C{mode} and C{wantPID}, as far as the kind of port
            has them, and C{late}: whether the service had started before.
        @param user: The generation.
        @param worker: The worker.
        @raise CannotListenError: The address cannot be used.
        """
        entry = self._entries.get(key)
        if entry is None or not _isInPlace(entry.port):
            lock = None if entry is None else entry.port
            port = self._bind(key, options, lock)
            entry = self._replace(key, _Entry(port, options))
        listener = entry.port.listener
        assert listener is not None, "the port listens"
        if listener.path is not None and "mode" in options:
            listener.path.changeMode(options["mode"])
        entry.users.setdefault(user, set()).add(worker)
        entry.isLate |= options["late"]
        if entry.isLate and self._late is not None:
            # The old generation may release it before the new one opens it.
            entry.users.setdefault(self._late, set())
        return listener.newSocket()

    def _replace(self, key: Key, entry: _Entry) -> _Entry:
        if key in self._entries:
            # The path of a UNIX socket was removed.  Older generations still accept
            # what has arrived at the old socket.
            self._replaced += 1
            self._entries[key].isReplaced = True
            self._entries[(*key, f"replaced {self._replaced}")] = self._entries[key]
        self._entries[key] = entry
        return entry

    def _bind(
        self, key: Key, options: dict[str, Any], before: SharedPort | None
    ) -> SharedPort:
        kind, interface, address, *_ = key
        made, factory, names = _PORTS[kind]
        given = {name: {**options, "interface": interface}[name] for name in names}
        port: SharedPort = made(address, factory(), reactor=self._reactor, **given)
        port.suspended = True
        listener = None if before is None else before.listener
        restored, _ = self._restored.pop(key, (None, False))
        name = (kind, address) if kind in PATHS else (kind, interface, address)
        port.listenAs(name, listener or restored, Resources())
        if restored is not None:
            restored.release(self)
        if self.store is not None and port.listener is not None:
            self.store.add(port.listener, options["late"])
        return port

    def passOn(self, user: object, descriptors: list[int]) -> list[dict[str, Any]]:
        """
        Describe the sockets for the program that replaces this one.

        @param user: The generation that serves.
        @param descriptors: Where to add the descriptors that it needs.
        """
        passed: list[dict[str, Any]] = []
        for key, entry in self._entries.items():
            if entry.isReplaced:
                # Workers have duplicates, and no other worker will claim it.
                continue
            listener = entry.port.listener
            assert listener is not None, "the port listens"
            if not _isInPlace(entry.port):
                # The same is true here.  The next socket at this path needs the lock.
                passed.append({"key": key})
                continue
            users = set().union(*entry.users.values())
            passed.append(
                {
                    **_describe(key, listener, entry.isLate),
                    "options": {**entry.options, "late": entry.isLate},
                    "isUsed": user in entry.users,
                    "pids": [getattr(each, "pid", 0) for each in users],
                }
            )
        for key, (listener, isLate) in self._restored.items():
            passed.append(_describe(key, listener, isLate))
        descriptors += [each["descriptor"] for each in passed if "name" in each]
        return passed

    def adopt(
        self, passed: list[dict[str, Any]], user: object, workers: dict[int, object]
    ) -> None:
        """
        Take over the sockets of the program that this one has replaced.

        @param passed: The result of L{passOn}.
        @param user: The generation that serves.
        @param workers: Its workers by their pids.
        """
        waiting = object()
        for each in passed:
            # If one fails, the others are adopted nevertheless.
            attempt(self._adopt, each, user, waiting, workers)
        Timer(self._reactor, LATE, lambda: self.releaseAll(waiting))

    def _adopt(
        self,
        passed: dict[str, Any],
        user: object,
        waiting: object,
        workers: dict[int, object],
    ) -> None:
        key = tuple(passed["key"])
        listener, isLate = _restore(passed)
        if listener is None:
            unlockOwn(key[-1])
            return
        listener.acquire(self)
        self._restored[key] = listener, isLate
        if self.store is not None and passed["isStored"]:
            self.store.note(listener, passed["name"])
        if "options" in passed:
            options = passed["options"]
            entry = _Entry(self._bind(key, options, None), options)
            entry.isLate = isLate
            used = {workers[pid] for pid in passed["pids"] if pid in workers}
            entry.users[user if passed["isUsed"] else waiting] = used
            self._entries[key] = entry

    def ports(self, user: object) -> list[Any]:
        """
        Return the open ports that a generation uses.
        """
        return [each.port for each in self._entries.values() if user in each.users]

    def keys(self, user: object) -> list[Key]:
        """
        Return the keys of the sockets that a generation uses.
        """
        return [key for key, each in self._entries.items() if user in each.users]

    def release(self, key: Key, user: object, worker: object) -> None:
        """
        Note that a worker has closed its duplicate of a socket.
        """
        for each, entry in list(self._entries.items()):
            if each[: len(key)] == key and worker in entry.users.get(user, ()):
                entry.users[user].discard(worker)
                if not entry.users[user]:
                    self._release(each, user)

    def _release(self, key: Key, user: object) -> None:
        entry = self._entries[key]
        entry.users.pop(user, None)
        if not entry.users:
            self._close(key)

    def _close(self, key: Key) -> None:
        attempt(self._entries.pop(key).port.connectionLost)

    def forget(self, user: object, worker: object) -> None:
        """
        Note that a worker has ended.  The last one keeps its sockets: another worker
        of the generation takes its place.
        """
        for entry in self._entries.values():
            workers = entry.users.get(user, set())
            if workers - {worker}:
                workers.discard(worker)

    def releaseAll(self, user: object) -> None:
        """
        Note that a generation has ended.
        """
        for key in self.keys(user):
            self._release(key, user)

    def prepare(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """
        Keep all sockets open during a reload, which may stop the old workers first.

        @return: The functions that end that, if the reload succeeds or fails.  Ports
            that the old workers have opened late may be opened late again.  If no
            generation is left, new connections wait for the next reload.
        """
        first, late = users = self._reserved or (object(), object())
        self._reserved, self._late = None, late
        for entry in self._entries.values():
            entry.users[late if entry.isLate else first] = set()

        def commit() -> None:
            self._late = None
            self.releaseAll(first)
            Timer(self._reactor, LATE, lambda: self.releaseAll(late))

        def rollback() -> None:
            self._late = None
            if any(each.users.keys() - users for each in self._entries.values()):
                self.releaseAll(first)
                self.releaseAll(late)
            else:
                self._reserved = users

        return commit, rollback

    def close(self) -> None:
        """
        Close all sockets.
        """
        self._closeRestored()
        for key in list(self._entries):
            self._close(key)


def _describe(key: Key, listener: Listener, isLate: bool) -> dict[str, Any]:
    return {
        "key": key,
        "name": str(storedOf(listener, isLate)),
        "descriptor": listener.fileno(),
        "isStored": listener.isPassedOn is not None,
    }


def _restore(passed: dict[str, Any]) -> tuple[Listener | None, bool]:
    stored = parseName(passed.get("name", ""))
    if stored is None:
        return None, False
    listener = restore(stored, passed["descriptor"])
    os.close(passed["descriptor"])
    return listener, stored.late


def _isInPlace(port: Any) -> bool:
    path = port.listener.path
    return path is None or path.isOurs
