"""
UNIX sockets whose path was removed, or replaced by another file.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError

from tests.support.generations import Client, NumberedDatagrams, connectTo
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.ports import failingReloads, numberAt, running, tcp, unixAt
from tests.support.reactors import turn
from txsignalfd._reload.listener import SocketPath

pytestmark = pytest.mark.usefixtures("withoutPause")

OURS = str(os.getpid())


@pytest.mark.parametrize("lock", ["stays", "goes", "none"])
@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aReloadBindsARemovedPathAgain(
    reactor: Any, stopFirst: bool, lock: str, tmp_path: Path
) -> None:
    """
    The old generation goes on, and the lock stays until the last one has
    stopped.
    """
    path = str(tmp_path / "socket")
    link = path + ".lock"

    async with running(unixAt(path, 0o600, lock != "none"), stopFirst=stopFirst) as (
        reloads,
        _,
    ):
        endpoint = UNIXClientEndpoint(reactor, path)
        for number in (b"1", b"2", b"3"):
            old = await connectProtocol(endpoint, Client())
            assert await old.line() == number
            os.unlink(path)
            if lock == "goes":
                os.unlink(link)
            ended = reloads.reload()
            if stopFirst:
                await old.end()
            await turn()
            assert await numberAt(endpoint) == b"%d" % (int(number) + 1)
            if not stopFirst:
                assert await old.ask(b"still?") == b"still?"
                await old.end()
            await ended
            assert os.path.exists(path)
            assert not os.path.lexists(link) or os.readlink(link) == OURS
            assert os.path.lexists(link) == (lock != "none")
    assert os.listdir(tmp_path) == []


@inReactor
async def test_pendingConnectionsOfARemovedPathAreServed(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async with running(unixAt(path)) as (reloads, _):
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)
            os.unlink(path)
            ended = reloads.reload()
            await turn()
            assert waiting.recv(10) == b"1\n"
        await ended


@pytest.mark.parametrize("datagrams", [False, True])
@inReactor
async def test_aReloadFailsWhereAnotherSocketHasThePath(
    datagrams: bool, tmp_path: Path
) -> None:
    """
    The other socket stays.
    """
    path = str(tmp_path / "socket")

    async with running(
        unixDatagramsAt(path) if datagrams else unixAt(path, wantPID=1)
    ) as (reloads, _):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            with pytest.raises(CannotListenError, match="Address already in use"):
                await reloads.reload()
            other.listen()
            inode = os.stat(path).st_ino
            reloads.cut()
            await reloads.stopService()
            assert os.stat(path).st_ino == inode
    assert os.listdir(tmp_path) == ["socket"]


def unixDatagramsAt(path: str) -> Any:
    """
    Receive datagrams at a path.
    """
    return lambda reactor, number: reactor.listenUNIXDatagram(
        path, NumberedDatagrams(number)
    )


@inReactor
async def test_aReloadBindsARemovedDatagramPathAgain(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    async with running(unixDatagramsAt(path), drain=0.01) as (reloads, _):
        os.unlink(path)
        await reloads.reload()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.bind(b"")
            client.sendto(b"?", path)
            await turn()
            assert client.recv(100) == b"2\n"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("datagrams", [False, True])
@inReactor
async def test_anOldPathCanBeRestoredDuringADrain(
    datagrams: bool, tmp_path: Path
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    listen = unixDatagramsAt if datagrams else partial(unixAt, wantPID=1)
    async with running(tcp, listen(first)) as (reloads, made):
        client = await connectTo(made.ports[0].getHost().port)
        assert await client.line() == b"1"
        for path in (second, first, second):
            made.listens = [tcp, listen(path)]
            reloads.reload().addErrback(lambda failure: None)
            await turn()
            assert made.ports[1].getHost().name in (path, os.fsencode(path))
            assert [each for each in os.listdir(tmp_path) if "lock" not in each] == [
                os.path.basename(path)
            ]


@pytest.mark.parametrize("stopFirst", [False, True])
@inReactor
async def test_aFailedReloadKeepsTheLockOfARemovedPath(
    reactor: Any, stopFirst: bool, tmp_path: Path
) -> None:
    """
    The next reload can succeed.
    """
    path = str(tmp_path / "socket")

    async with running(unixAt(path, wantPID=1), stopFirst=stopFirst) as (reloads, made):
        good = made.listens

        def bad(reactor: Any, number: int) -> Any:
            assert os.path.exists(path)
            raise ZeroDivisionError

        os.unlink(path)
        made.listens = [*good, bad]
        with pytest.raises(ZeroDivisionError):
            await reloads.reload()
        assert os.path.exists(path) == stopFirst
        assert os.readlink(path + ".lock") == OURS
        made.listens = good
        await reloads.reload()
        assert await numberAt(UNIXClientEndpoint(reactor, path)) == b"3"
    assert os.listdir(tmp_path) == []


@inReactor
async def test_aReloadWithoutFreeDescriptorsKeepsTheLock(tmp_path: Path) -> None:
    """
    The path stays removed, wherever the reload has failed.
    """
    path = str(tmp_path / "socket")

    async with running(unixAt(path, wantPID=1)) as (reloads, _):
        os.unlink(path)
        await reloads.reload()
        os.unlink(path)
        before = os.listdir("/proc/self/fd")
        failed = 0
        async for _ in failingReloads(reloads):
            failed += 1
            assert os.listdir("/proc/self/fd") == before
            assert os.listdir(tmp_path) == ["socket.lock"]
        assert failed
        assert os.path.exists(path)
    assert os.listdir(tmp_path) == []


@inReactor
async def test_theLockOfAnotherProcessIsRespected(
    tmp_path: Path, logged: Logged
) -> None:
    """
    It is not removed at the end either.
    """
    path = str(tmp_path / "socket")
    link = path + ".lock"

    async with running(unixAt(path, wantPID=1)) as (reloads, _):
        os.unlink(path)
        os.unlink(link)
        os.symlink(str(os.getppid()), link)
        with pytest.raises(CannotListenError, match="Cannot acquire lock"):
            await reloads.reload()
    assert os.readlink(link) == str(os.getppid())
    assert logged.contains(f"{link}' was not removed: Lock ")


@pytest.mark.parametrize("hasSocket", [False, True])
@inReactor
async def test_theLockOfAKilledProcessWithOurPidIsRemoved(
    reactor: Any, hasSocket: bool, tmp_path: Path, logged: Logged
) -> None:
    """
    As in a container, where the program always gets the same pid.
    """
    path = str(tmp_path / "socket")
    os.symlink(OURS, path + ".lock")
    if hasSocket:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
    async with running(unixAt(path, wantPID=1)):
        assert await numberAt(UNIXClientEndpoint(reactor, path)) == b"1"
    assert os.listdir(tmp_path) == []
    why = f"its process, pid {OURS}, has ended"
    assert f"removed the lock '{path}.lock': {why}" in logged.texts


@pytest.mark.parametrize("place", ["file", "served socket"])
@inReactor
async def test_anotherFileThanALeftSocketStays(place: str, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    os.symlink(OURS, f"{path}.lock")
    with socket.socket(socket.AF_UNIX) as other:
        if place == "file":
            path.touch()
        else:
            other.bind(str(path))
            other.listen()
        with pytest.raises(CannotListenError):
            async with running(unixAt(str(path), wantPID=1)):
                raise AssertionError("it listens")
    assert path.exists()


@inReactor
async def test_twoPortsOfAProcessCannotHaveOnePath(tmp_path: Path) -> None:
    """
    Also if the path was removed.
    """
    path = str(tmp_path / "socket")
    listen = unixAt(path, wantPID=1)
    async with running(listen):
        os.unlink(path)
        with pytest.raises(CannotListenError, match="Cannot acquire lock"):
            async with running(listen):
                raise AssertionError("it listens")


@inReactor
async def test_aFileThatIsNoLockStays(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    Path(path + ".lock").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        async with running(unixAt(path, wantPID=1)):
            raise AssertionError("it listens")
    assert os.listdir(tmp_path) == ["socket.lock"]


@inReactor
async def test_aStopLogsThatThePathWasRemovedBefore(
    tmp_path: Path, logged: Logged
) -> None:
    path = str(tmp_path / "socket")

    async with running(unixAt(path, wantPID=1)) as (_, _):
        os.unlink(path)
        os.unlink(path + ".lock")
    why = "was not removed: it does not lead to our socket any more"
    assert f"{path!r} {why}" in logged.texts
    assert logged.contains(".lock' was not removed: [Errno 2]")


@contextmanager
def asNobody(directory: Path) -> Iterator[None]:
    """
    Run as a user who may not enter a directory.
    """
    isRoot = os.geteuid() == 0
    directory.chmod(0)
    if isRoot:
        os.seteuid(65534)
    try:
        yield
    finally:
        if isRoot:
            os.seteuid(0)
        directory.chmod(0o700)


def test_aPathThatCannotBeExaminedCountsAsOurs(tmp_path: Path, logged: Logged) -> None:
    """
    Reloads go on after root was given up; the path stays at the end.
    """
    name = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(name)
        path = SocketPath(name, 0o666, None)
        with asNobody(tmp_path):
            assert path.isOurs
            path.changeMode(0o666)
            with pytest.raises(PermissionError):
                path.changeMode(0o600)
            path.remove()
        assert path.isOurs
    assert logged.contains("was not removed: [Errno 13]")
