"""
The ports of a service, of each kind, across reloads.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import sys
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import CannotListenError, MulticastJoinError
from twisted.internet.protocol import DatagramProtocol

from tests.support import clients
from tests.support.freeports import freePort
from tests.support.generations import (
    NumberedDatagrams,
    NumberedFactory,
    connectTo,
    makeDue,
    servedBy,
    start,
)
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.ports import (
    Listen,
    PortFactory,
    failingReloads,
    numberAt,
    running,
    tcp,
    unixAt,
)
from tests.support.reactors import KINDS, turn, until
from txsignalfd import ReloadService
from txsignalfd._reload import generation
from txsignalfd._reload import generations as module

pytestmark = pytest.mark.usefixtures("withoutPause")


def tcp6(reactor: Any, number: int) -> Any:
    """
    Listen on any TCP port of IPv6.
    """
    return reactor.listenTCP(0, NumberedFactory(number), interface="::1")


@inReactor
async def test_anyFreePortStaysTheSameAfterAReload() -> None:
    """
    Ports get their sockets again in the order in which they were opened.
    """
    async with running(tcp, tcp, tcp6) as (reloads, made):
        before = [port.getHost() for port in made.ports]
        await reloads.reload()
        assert [port.getHost() for port in made.ports] == before
        assert len(set(map(str, before))) == 3


@pytest.mark.parametrize("kind", KINDS)
@inReactor
async def test_aReloadKeepsAnIPv6Port(reactor: Any, kind: str) -> None:
    async with running(tcp6) as (reloads, made):
        port = made.ports[0].getHost().port
        endpoint = TCP6ClientEndpoint(reactor, "::1", port)
        assert await numberAt(endpoint) == b"1"
        await reloads.reload()
        assert await numberAt(endpoint) == b"2"


@inReactor
async def test_aReloadKeepsPathModeAndLockOfAUNIXSocket(
    reactor: Any, tmp_path: Path
) -> None:
    """
    The path and the lock are removed when the last generation has stopped.
    """
    path = str(tmp_path / "socket")
    endpointOf = lambda reactor: UNIXClientEndpoint(reactor, path)  # noqa: E731

    async with running(unixAt(path, 0o600, 1)) as (reloads, made):
        inode = os.stat(path).st_ino
        for number in (b"1", b"2", b"3"):
            assert await numberAt(endpointOf(reactor)) == number
            assert os.stat(path).st_ino == inode
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert os.readlink(path + ".lock") == str(os.getpid())
            await reloads.reload()
        # A new configuration may want another mode.
        made.listens = [unixAt(path, 0o640, 1)]
        await reloads.reload()
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
        assert "unix:" + path in reloads.describe()[0]
    assert os.listdir(tmp_path) == []


@inReactor
async def test_aReloadKeepsAnAbstractUNIXSocket(reactor: Any) -> None:
    name = f"\0txsignalfd-{os.getpid()}"

    async with running(unixAt(name)) as (reloads, _):
        await reloads.reload()
        assert await numberAt(UNIXClientEndpoint(reactor, name)) == b"2"


class Datagrams(DatagramProtocol):
    """
    Records the datagrams that it receives.
    """

    noisy = False

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.received.append(datagram)


def udp(reactor: Any, number: int) -> Any:
    """
    Receive datagrams at any port.
    """
    return reactor.listenUDP(0, NumberedDatagrams(number), interface="127.0.0.1")


def multicast(reactor: Any, number: int) -> Any:
    """
    Receive datagrams, of groups too, at any port.
    """
    return reactor.listenMulticast(0, NumberedDatagrams(number), interface="127.0.0.1")


@pytest.mark.parametrize("listen", [udp, multicast])
@inReactor
async def test_reloadsLoseNoDatagram(
    reactor: Any, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Each datagram is answered once, by the old generation or by the new one.
    """
    monkeypatch.setattr(generation, "ANSWERS", 1000)

    async with running(listen, drain=1000) as (reloads, made):
        client = Datagrams()
        port = reactor.listenUDP(0, client, interface="127.0.0.1")
        where = made.ports[0].getHost()
        # The old generation goes on for a moment, to send its answers.
        for _ in range(10):
            port.write(b"?", (where.host, where.port))
            ended = reloads.reload()
            port.write(b"?", (where.host, where.port))
            await turn()
        assert not ended.called
        assert made.ports[0].getHost() == where
        await until(lambda: len(client.received) == 20)
        assert client.received[-1] == b"11\n"
        await port.stopListening()


def at(kind: str, port: int) -> Listen:
    """
    Open a port with a number.
    """

    def listen(reactor: Any, number: int) -> Any:
        if kind == "tcp":
            factory = NumberedFactory(number)
            return reactor.listenTCP(port, factory, interface="127.0.0.1")
        listen = reactor.listenUDP if kind == "udp" else reactor.listenMulticast
        return listen(port, NumberedDatagrams(number), interface="127.0.0.1")

    return listen


@pytest.mark.parametrize("transport", ["tcp", "udp", "multicast"])
@inReactor
async def test_anOldAddressCanBeRestoredDuringADrain(transport: str) -> None:
    """
    The first generation still has a connection, and with it its sockets.
    """
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    first, second = (freePort(kind=kind) for _ in range(2))
    async with running(tcp, at(transport, first)) as (reloads, made):
        client = await made.connect()
        assert await client.line() == b"1"
        for number, port in enumerate((second, first, second), 2):
            made.listens = [tcp, at(transport, port)]
            reloads.reload().addErrback(lambda failure: None)
            await turn()
            assert len(reloads.describe()) > 1
            assert await answerOf(kind, port) == b"%d\n" % number
        assert await client.ask(b"still?") == b"still?"


async def answerOf(kind: int, port: int) -> bytes:
    """
    Return the number of the generation that answers at a port.
    """
    with socket.socket(type=kind) as client:
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        client.send(b"?")
        await until(lambda: _isReadable(client))
        return client.recv(100).split(b"?")[0]


class Grouped(NumberedDatagrams):
    """
    A protocol that joins groups when it starts.
    """

    def __init__(self, number: int, groups: set[str]) -> None:
        super().__init__(number)
        self._groups = groups
        self.joined: list[Deferred[None]] = []

    def startProtocol(self) -> None:
        transport: Any = self.transport
        self.joined = [transport.joinGroup(group, LOCAL) for group in self._groups]


def groupsNow() -> set[str]:
    """
    Return those of our groups that the kernel has joined.
    """
    words = Path("/proc/net/igmp").read_text().split()
    return {group for group in GROUPS if _asInProc(group) in words}


def _asInProc(address: str) -> str:
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}"


LOCAL = "127.0.0.1"
#: Different groups in each process that runs these tests: a process id has up to
#: 22 bits, which leaves two.
GROUPS = {
    str(IPv4Address("239.0.0.0") + os.getpid() % 2**22 * 4 + number)
    for number in range(1, 4)
}


@inReactor
async def test_aMulticastGroupIsLeftByItsLastMember(reactor: Any) -> None:
    """
    The kernel takes all duplicates of a socket for one member.
    """
    first, second, third = sorted(GROUPS)
    protocols: list[Grouped] = []

    def listen(*groups: str) -> Listen:
        def grouped(reactor: Any, number: int) -> Any:
            protocols.append(Grouped(number, set(groups)))
            return reactor.listenMulticast(0, protocols[-1])

        return grouped

    async with running(listen(first, second), drain=0.01) as (reloads, made):
        assert groupsNow() == {first, second}
        for groups in ([first, second], [first, third], [first]):
            made.listens = [listen(*groups)]
            ended = reloads.reload()
            old, new = protocols[-2:]
            for joined in new.joined:
                await joined
            transport: Any = old.transport
            await transport.leaveGroup(first, LOCAL)
            assert first in groupsNow()
            await ended
            assert groupsNow() == set(groups)
        transport = protocols[-1].transport
        transport.setTTL(2)
        assert transport.getTTL() == 2
        # As with Twisted's own port, the second call is an error.
        for change in (transport.joinGroup, transport.leaveGroup):
            await change(second, LOCAL)
            with pytest.raises(MulticastJoinError):
                await change(second, LOCAL)
    assert groupsNow() == set()


@inReactor
async def test_aReloadKeepsThePathOfAUNIXDatagramSocket(
    reactor: Any, tmp_path: Path
) -> None:
    """
    The path is removed when the last generation has stopped.
    """
    path, ours = str(tmp_path / "socket"), str(tmp_path / "client")

    async with running(
        lambda reactor, number: reactor.listenUNIXDatagram(
            path, NumberedDatagrams(number)
        ),
        drain=0.01,
    ) as (reloads, _):
        inode = os.stat(path).st_ino
        await reloads.reload()
        assert os.stat(path).st_ino == inode
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind(ours)
            client.sendto(b"?", path)
            await turn()
            assert client.recv(100) == b"2\n"
    assert os.listdir(tmp_path) == ["client"]


@inReactor
async def test_aServiceMayMakeItsSocketsByReusePort(reactor: Any) -> None:
    """
    New connections go to the new generation, and none to the old one's socket.
    """
    port = freePort()

    def adopt(reactor: Any, number: int) -> Any:
        with socket.socket() as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(("127.0.0.1", port))
            made.listen()
            made.setblocking(False)
            factory = NumberedFactory(number)
            return reactor.adoptStreamPort(made.fileno(), socket.AF_INET, factory)

    async with running(adopt) as (reloads, _):
        held = await connectTo(port)
        assert await held.line() == b"1"
        ended = reloads.reload()
        assert [line.split()[-1] for line in reloads.describe()] == [
            f"tcp:127.0.0.1:{port}"
        ] * 2
        for _ in range(30):
            assert await servedBy(port) == b"2"
        assert await held.ask(b"are you there?") == b"are you there?"
        await held.end()
        await ended


@inReactor
async def test_aPortThatIsNoLongerConfiguredRefuses(reactor: Any) -> None:
    """
    Its open connections go on, and newly configured ports are open.
    """
    async with running(tcp, udp, drain=5) as (reloads, made):
        gone, _ = (port.getHost().port for port in made.ports)
        client = await connectTo(gone)
        assert await client.line() == b"1"
        made.listens = [tcp6]
        ended = reloads.reload()
        assert not clients.canConnect(clients.tcp(gone))
        assert await client.ask(b"still?") == b"still?"
        (new,) = made.ports
        endpoint = TCP6ClientEndpoint(reactor, "::1", new.getHost().port)
        assert await numberAt(endpoint) == b"2"
        await client.end()
        await ended


@pytest.mark.parametrize("place", ["tcp", "unix", "lock", "udp"])
@inReactor
async def test_aFailedListenLeavesNothingOpen(
    reactor: Any, place: str, tmp_path: Path
) -> None:
    """
    The error is Twisted's.
    """
    path = str(tmp_path / "socket")

    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        datagrams.bind(("127.0.0.1", 0))
        unix.bind(path)
        if place == "lock":
            os.symlink(str(os.getppid()), path + ".lock")
        listens: dict[str, Listen] = {
            "tcp": lambda reactor, number: reactor.listenTCP(
                busy.getsockname()[1], NumberedFactory(1), interface="127.0.0.1"
            ),
            "udp": lambda reactor, number: reactor.listenUDP(
                datagrams.getsockname()[1], NumberedDatagrams(1), interface="127.0.0.1"
            ),
            "unix": unixAt(path, wantPID=place == "unix"),
            "lock": unixAt(path, wantPID=1),
        }
        if place == "unix":
            # Twisted replaces a socket that another process left, but no file.
            os.unlink(path)
            Path(path).touch()
        reloads = ReloadService(PortFactory(listens[place]), reactor=reactor)
        with pytest.raises(CannotListenError):
            start(reloads)
    assert os.path.lexists(path + ".lock") == (place == "lock")


@inReactor
async def test_aFactoryThatFailsToStartLeavesNothingOpen(reactor: Any) -> None:

    class Bad(NumberedFactory):
        def startFactory(self) -> None:
            raise ZeroDivisionError("no log file")

    before = len(os.listdir("/proc/self/fd"))
    reloads = ReloadService(
        PortFactory(lambda reactor, number: reactor.listenTCP(0, Bad(1))),
        reactor=reactor,
    )
    with pytest.raises(ZeroDivisionError) as raised:
        start(reloads)
    assert len(os.listdir("/proc/self/fd")) == before
    del raised


@inReactor
async def test_aPortCanBeClosedByItsService(reactor: Any) -> None:
    """
    It refuses immediately, and not at the next reload.
    """
    async with running(tcp) as (reloads, _):
        await reloads.reload()
        passing = tcp(reactor, 5)
        number = passing.getHost().port
        client = await connectTo(number)
        assert await client.line() == b"5"
        await passing.stopListening()
        assert not clients.canConnect(clients.tcp(number))
        await client.end()


@inReactor
async def test_aDatagramPortThatItsServiceLeavesOpenIsClosed(logged: Logged) -> None:
    """
    When the service has stopped, and once.
    """
    async with running(udp) as (_, made):
        (service,) = made.services
        service.stopService = Service.stopService.__get__(service)  # type: ignore[method-assign]
        port = service.port
    assert not port.connected
    assert logged.failures == []


@inReactor
async def test_anUnownedPortIsShared(reactor: Any) -> None:
    """
    The new generation listens where a port was opened after the start.
    """
    async with running() as (reloads, made):
        number = freePort()
        other = tcp(reactor, 1)
        late = reactor.listenTCP(number, NumberedFactory(1), interface="127.0.0.1")
        made.listens = [
            lambda reactor, count: reactor.listenTCP(
                number, NumberedFactory(count), interface="127.0.0.1"
            )
        ]
        await reloads.reload()
        await late.stopListening()
        await other.stopListening()
        assert await servedBy(number) == b"2"


@pytest.mark.parametrize("drain", [1000, 0.1])
@inReactor
async def test_connectionsToALatePortThatIsNotOpenedAreClosed(
    reactor: Any, drain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With C{stopFirst} they wait for a limited time, or until a stop.
    """
    monkeypatch.setattr(module, "LATE", 0.1)

    async with running(tcp, stopFirst=True, drain=drain, alone=True) as (reloads, _):
        where = ("127.0.0.1", freePort())
        before = reactor.getDelayedCalls()
        reactor.listenTCP(where[1], NumberedFactory(1), interface=where[0])
        await reloads.reload()
        with socket.create_connection(where) as waiting:
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            if drain == 1000:
                reloads.cut()
                await reloads.stopService()
            await until(lambda: _isReadable(waiting))
            assert waiting.recv(1) == b""
        assert not clients.canConnect(clients.tcp(where[1]))
        assert reactor.getDelayedCalls() == before


@inReactor
async def test_aLatePortAcceptsUntilTheNewGenerationOpensIt(reactor: Any) -> None:
    """
    Its open connections go on, also those of a temporary port.
    """
    async with running(alone=True) as (reloads, _):
        number = freePort()
        listen = partial(reactor.listenTCP, number, interface="127.0.0.1")
        listen(NumberedFactory(1))
        passing = tcp(reactor, 9)
        client = await connectTo(number)
        assert await client.line() == b"1"
        ended = reloads.reload()
        await turn()
        other = await connectTo(number)
        assert await other.line() == b"1"
        listen(NumberedFactory(2))
        for connection in (client, other):
            assert await connection.ask(b"still") == b"still"
        new = await connectTo(number)
        assert await new.line() == b"2"
        # A temporary port stays open for the connections of its generation.
        data = await connectTo(passing.getHost().port)
        assert await data.line() == b"9"
        for connection in (client, other, data):
            assert not ended.called
            await connection.end()
        await ended
        await new.end()


@inReactor
async def test_aLatePortMayBeClosedByItsService(reactor: Any) -> None:
    """
    The new generation opens it with a new socket.
    """
    listen = at("tcp", freePort())
    async with running(tcp, alone=True) as (reloads, made):
        client = await made.connect()
        await client.line()
        late = listen(reactor, 1)
        reloads.reload().addErrback(lambda failure: None)
        await turn()
        await late.stopListening()
        port = listen(reactor, 2).getHost().port
        assert await answerOf(socket.SOCK_STREAM, port) == b"2\n"


@pytest.mark.parametrize("drain", [0, 0.05, 0.2])
@inReactor
async def test_aLatePortThatIsNotOpenedAgainIsClosed(
    reactor: Any, drain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The new generation has a limited time to open it.
    """
    monkeypatch.setattr(module, "LATE", 0.1)

    async with running(drain=drain, alone=True) as (reloads, _):
        number = freePort()
        reactor.listenTCP(number, NumberedFactory(1), interface="127.0.0.1")
        await reloads.reload()
        await until(lambda: not clients.canConnect(clients.tcp(number)))


@pytest.mark.parametrize("drain", [0, 0.05])
@inReactor
async def test_connectionsWaitUntilALatePortIsOpened(
    reactor: Any, drain: float
) -> None:
    """
    They wait also when the old generation has stopped.
    """
    async with running(drain=drain, alone=True) as (reloads, _):
        where = ("127.0.0.1", freePort())
        listen = partial(reactor.listenTCP, where[1], interface=where[0])
        listen(NumberedFactory(1))
        for number in (2, 3):
            await reloads.reload()
            assert len(reloads.describe()) == 1
            with socket.create_connection(where) as waiting:
                await turn()
                assert not _isReadable(waiting)
                listen(NumberedFactory(number))
                await until(lambda: _isReadable(waiting))
                assert waiting.recv(10) == b"%d\n" % number
        # The deadline of the old sockets does not close the new port.
        assert reloads._generations is not None
        handovers = reloads._generations._sharing.handovers
        assert handovers
        for handover in handovers:
            makeDue(handover._deadline)
        await until(lambda: not handovers)
        assert await servedBy(where[1]) == b"3"


@inReactor
async def test_aConnectionThatFailsToCloseIsLogged(logged: Logged) -> None:
    """
    The other connections are closed.
    """

    class Stubborn:
        def abortConnection(self) -> None:
            raise ZeroDivisionError

    async with running(tcp) as (reloads, made):
        client = await made.connect()
        assert await client.line() == b"1"
        assert reloads._generations is not None
        current = reloads._generations.current
        stubborn = Stubborn()
        current.resources.opened(stubborn)
        current.cut()
        await until(lambda: client.lost)
        current.resources.ended(stubborn)
    assert logged.contains("has failed")


@inReactor
async def test_aSuspendedPortCannotBeResumed(reactor: Any) -> None:
    """
    A factory may pause and resume its port to limit its connections.
    """
    async with running(tcp) as (reloads, made):
        (old,) = made.ports
        client = await connectTo(old.getHost().port)
        assert await client.line() == b"1"
        ended = reloads.reload()
        old.startReading()
        assert old not in reactor.getReaders()
        await client.end()
        await ended


@inReactor
async def test_aProgramMayWrapTheReactorsMethods(reactor: Any) -> None:
    """
    Its wrappers stay, and other methods are restored.
    """
    own = reactor.listenTCP
    calls: list[int] = []

    def listenTCP(*args: Any, **keywords: Any) -> Any:
        calls.append(1)
        return own(*args, **keywords)

    reactor.listenTCP = listenTCP
    reloads = ReloadService(PortFactory(), reactor=reactor)
    start(reloads)
    assert reactor.listenTCP != listenTCP
    ours = reactor.listenUDP
    reactor.listenUDP = partial(ours)
    await reloads.stopService()
    assert reactor.listenTCP is listenTCP
    assert "listenUDP" in vars(reactor)
    del reactor.listenTCP, reactor.listenUDP


@inReactor
async def test_waitingForAGenerationCanBeCancelled() -> None:
    """
    Other callers still get the end of the generation and of its connections.
    """
    async with running(tcp) as (reloads, made):
        client = await made.connect()
        await client.line()
        generations = reloads._generations
        assert generations is not None
        old = generations.current
        waits = [old.retired.wait(), old.resources.whenQuiet()]
        others = [old.retired.wait(), old.resources.whenQuiet()]
        for deferred in waits:
            deferred.addErrback(lambda failure: None)
            deferred.cancel()
        ended: Deferred[None] = reloads.reload()
        await client.end()
        await ended
        for deferred in others:
            assert deferred.called


@inReactor
async def test_aReloadWithoutFreeDescriptorsLeavesNothingOpen(
    reactor: Any, tmp_path: Path
) -> None:
    """
    The old generation goes on, wherever the reload has failed.
    """
    path = str(tmp_path / "socket")

    async with running(tcp) as (reloads, made):
        await reloads.reload()
        port = made.ports[0].getHost().port
        made.listens += [tcp6, udp, unixAt(path, wantPID=1)]
        before = os.listdir("/proc/self/fd")
        readers = len(reactor.getReaders())
        failed = 0
        async for _ in failingReloads(reloads):
            failed += 1
            assert os.listdir("/proc/self/fd") == before
            assert len(reactor.getReaders()) == readers
            assert os.listdir(tmp_path) == []
            assert await servedBy(port) == b"2"
        assert failed > 5


def _isReadable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


@inReactor
async def test_manyConnectionsCanWaitWhileAServiceRestarts(tmp_path: Path) -> None:
    """
    A UNIX socket would refuse those beyond its own queue.
    """
    path = str(tmp_path / "socket")
    waiting: list[socket.socket] = []

    async with running(unixAt(path), udp, stopFirst=True, drain=0.01) as (
        reloads,
        made,
    ):

        def factory() -> Any:
            for _ in range(200):
                waiting.append(socket.socket(socket.AF_UNIX))
                waiting[-1].setblocking(False)
                waiting[-1].connect(path)
            return made()

        assert reloads._generations is not None
        reloads._generations._factory = factory
        await reloads.reload()
        await turn()
        with ExitStack() as stack:
            for client in map(stack.enter_context, waiting):
                await until(partial(_isReadable, client))
                assert client.recv(10) == b"2\n"


@pytest.mark.parametrize("kind", KINDS)
@inReactor
async def test_aPortMayBeShutDownByAnotherProcess(
    reactor: Any, kind: str, logged: Logged
) -> None:
    """
    It stops reading, and nothing is logged.
    """
    async with running(tcp) as (_, made):
        (port,) = made.ports
        with socket.socket(fileno=os.dup(port.fileno())) as ofAnother:
            ofAnother.shutdown(socket.SHUT_RDWR)
        await until(lambda: port not in reactor.getReaders())
        assert not logged.failures


@inReactor
async def test_otherErrorsOfAPortAreLogged(
    monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    async with running(tcp) as (_, made):
        (port,) = made.ports
        monkeypatch.setattr(socket.socket, "_accept", _failing)
        client = await connectTo(port.getHost().port)
        await until(lambda: bool(logged.failures))
        monkeypatch.undo()
        logged.clear()
        assert await client.line() == b"1"
        await client.end()


def _failing(_: object) -> None:
    raise OSError(errno.EIO, "failed")
