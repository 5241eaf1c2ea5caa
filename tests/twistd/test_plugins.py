"""
Each plugin of Twisted itself, under C{twistd signalfd}.
"""

from __future__ import annotations

import ftplib
import gc
import os
import pwd
import re
import shutil
import socket
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from signal import SIGTERM, SIGUSR1
from typing import Any

import pytest

from tests.support.clients import Web, fetch, keeping, load, opening, tcp
from tests.support.daemons import Program, program, reload, serving, waitFor
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort
from tests.support.processes import runPython
from tests.support.reactors import DEADLINE
from txsignalfd._twistd.actions import SIMPLE
from txsignalfd._twistd.plugins import fewerCollections, installedPlugins


def talk(port: int, *exchange: bytes) -> None:
    """
    Send the first text, wait for the second, and so on.

    A text to send may be empty.
    """
    with tcp(port)() as connection:
        for number, text in enumerate(exchange):
            if number % 2 == 0:
                connection.sendall(text)
                continue
            received = b""
            while text not in received:
                more = connection.recv(4096)
                assert more, received
                received += more


class Conch:
    def __init__(self, directory: Path, port: int) -> None:
        pytest.importorskip("bcrypt", reason="needs what Twisted's conch needs")
        self.port = port
        private, public = _hostKey()
        (directory / "ssh_host_ed25519_key").write_bytes(private)
        (directory / "ssh_host_ed25519_key.pub").write_bytes(public)
        self.options = [
            f"--port=tcp:{port}:interface=127.0.0.1",
            f"--data={directory}",
            "--auth=memory:user:password",
        ]

    def check(self, daemon: Program) -> None:
        talk(self.port, b"SSH-2.0-test\r\n", b"ssh-ed25519")


def _hostKey() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, public


class Dns:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        zone = directory / "zone"
        zone.write_text(
            "zone = [\n"
            "  SOA('example.org', mname='ns.example.org', rname='a.example.org',\n"
            "      serial=1, refresh='1H', retry='1H', expire='1H', minimum='1H'),\n"
            "  A('example.org', '192.0.2.1'),\n"
            "]\n"
        )
        self.options = [f"--port={port}", "--interface=127.0.0.1", f"--pyzone={zone}"]

    def check(self, daemon: Program) -> None:
        question = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0)
        question += b"\x07example\x03org\x00\x00\x01\x00\x01"
        answer = socket.inet_aton("192.0.2.1")
        talk(self.port, struct.pack("!H", len(question)) + question, answer)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(DEADLINE)
            asking.sendto(question, ("127.0.0.1", self.port))
            assert answer in asking.recv(512)


class Ftp:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        (directory / "file").write_text("its text\n")
        self.options = [f"--port={port}", f"--root={directory}", "--auth=anonymous"]

    def check(self, daemon: Program) -> None:
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", self.port, DEADLINE)
            client.login()
            assert retrieve(client) == [b"its text\n"]


def retrieve(client: ftplib.FTP) -> list[bytes]:
    """
    Retrieve a file as binary, because Twisted cannot send lines.
    """
    text: list[bytes] = []
    client.retrbinary("RETR file", text.append)
    return text


class Inetd:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        me = pwd.getpwuid(os.getuid()).pw_name
        file = directory / "inetd.conf"
        file.write_text(f"{port} stream tcp nowait {me} /bin/cat cat\n")
        self.options = [f"--file={file}"]

    def check(self, daemon: Program) -> None:
        talk(self.port, b"meow", b"meow")


class Mail:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.pop3 = freePort()
        self.options = [
            f"--smtp=tcp:{port}:interface=127.0.0.1",
            f"--pop3=tcp:{self.pop3}:interface=127.0.0.1",
            # The relay is active every second.  The options for users have not
            # worked since Python 2.
            f"--relay={directory / 'queue'}",
            "--hostname=localhost",
        ]

    def check(self, daemon: Program) -> None:
        mail = b"HELO me\r\nMAIL FROM:<me@localhost>\r\nQUIT\r\n"
        talk(self.port, b"", b"220 ", mail, b"Sender address accepted\r\n221 ")
        talk(self.pop3, b"QUIT\r\n", b"+OK")


class Manhole:
    def __init__(self, directory: Path, port: int) -> None:
        reason = "needs what Twisted's conch needs"
        pytest.importorskip("cryptography", reason=reason)
        self.port = port
        passwords = directory / "passwords"
        passwords.write_text("user:password\n")
        self.options = [
            f"--telnetPort=tcp:{port}:interface=127.0.0.1",
            f"--passwd={passwords}",
        ]

    def check(self, daemon: Program) -> None:
        talk(self.port, b"", b"Username: ")


class Portforward:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.behind = socket.create_server(("127.0.0.1", 0))
        self.options = [
            f"--port=tcp:{port}:interface=127.0.0.1",
            "--host=127.0.0.1",
            f"--dest_port={self.behind.getsockname()[1]}",
        ]

    def check(self, daemon: Program) -> None:
        with tcp(self.port)() as connection:
            connection.sendall(b"through")
            accepted, _ = self.behind.accept()
            with accepted:
                assert accepted.recv(100) == b"through"
                accepted.sendall(b"and back")
                assert connection.recv(100) == b"and back"

    def close(self) -> None:
        self.behind.close()


class Procmon:
    def __init__(self, directory: Path, port: int) -> None:
        self.options = ["sleep", "1000"]
        self.seen: set[str] = set()

    def check(self, daemon: Program) -> None:
        children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")

        def isNew() -> bool:
            """
            Exactly one child runs, and no child of the last generation.
            """
            now = set(children.read_text().split())
            return len(now) == 1 and not now & self.seen

        waitFor(isNew, "one child of this generation")
        self.seen |= set(children.read_text().split())


class Socks:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.behind = socket.create_server(("127.0.0.1", 0))
        # The option --log has not worked since Python 2.
        self.options = [f"--port={port}"]

    def check(self, daemon: Program) -> None:
        wanted = struct.pack("!BBH", 4, 1, self.behind.getsockname()[1])
        with tcp(self.port)() as connection:
            connection.sendall(wanted + socket.inet_aton("127.0.0.1") + b"me\0")
            assert connection.recv(8)[:2] == b"\0\x5a"
            accepted, _ = self.behind.accept()
            with accepted:
                connection.sendall(b"through")
                assert accepted.recv(100) == b"through"

    def close(self) -> None:
        self.behind.close()


class StaticWeb:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        (directory / "index.html").write_text("its text\n")
        self.options = [
            f"--listen=tcp:{port}:interface=127.0.0.1",
            f"--path={directory}",
            f"--logfile={directory / 'web.log'}",
        ]

    def check(self, daemon: Program) -> None:
        assert fetch(tcp(self.port)) == b"its text\n"


class Words:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.options = [
            f"--irc-port=tcp:{port}:interface=127.0.0.1",
            "--auth=memory:user:password",
        ]

    def check(self, daemon: Program) -> None:
        logIn = b"PASS password\r\nNICK user\r\nUSER user 0 * :user\r\n"
        talk(self.port, logIn, b":connected to Twisted IRC")


class XmppRouter:
    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.options = [f"--port=tcp:{port}:interface=127.0.0.1", "--secret=secret"]

    def check(self, daemon: Program) -> None:
        stream = (
            b"<stream:stream xmlns='jabber:component:accept' to='example.org'"
            b" xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        talk(self.port, stream, b"<stream:stream")


SHIPPED: dict[str, Callable[[Path, int], Any]] = {
    "conch": Conch,
    "dns": Dns,
    "ftp": Ftp,
    "inetd": Inetd,
    "mail": Mail,
    "manhole": Manhole,
    "portforward": Portforward,
    "procmon": Procmon,
    "socks": Socks,
    "web": StaticWeb,
    "words": Words,
    "xmpp-router": XmppRouter,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_everyPluginServesThroughReloads(name: str, tmp_path: Path) -> None:
    plugin = SHIPPED[name](tmp_path, freePort())
    options = ["--drain=2", name, *plugin.options]
    try:
        with serving(tmp_path, *options) as daemon:
            plugin.check(daemon)
            reload(daemon)
            plugin.check(daemon)
            reload(daemon)
            plugin.check(daemon)
            assert daemon.stop() == -SIGTERM
            assert "Traceback" not in daemon.output()
    finally:
        if hasattr(plugin, "close"):
            plugin.close()


def test_everyPluginOfTwistedIsTested() -> None:
    """
    A newer Twisted may have others.
    """
    shipped = [
        name
        for name, maker in installedPlugins().items()
        if maker.module.startswith("twisted.")
    ]
    assert sorted(shipped) == sorted(SHIPPED)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """
    Return the output of C{twistd signalfd --help}.
    """
    directory = tmp_path_factory.mktemp("help")
    with program(directory, TWISTD, "signalfd", "--help") as running:
        assert running.wait() == 0, running.output()
        return running.output()


def test_theHelpListsThePlugins(shown: str) -> None:
    """
    With their descriptions, but without C{signalfd} itself.
    """
    _, listed = shown.split("\nCommands:\n")
    words = [line.split() for line in listed.splitlines() if line.strip()]
    names = {line[0] for line in words}
    assert names.issuperset(SHIPPED)
    assert "signalfd" not in names
    assert ["dns", "A", "domain", "name", "server."] in words


def test_theHelpListsTheActionsWhereOnStands(shown: str) -> None:
    (text,) = re.findall("--on=(.*?)--signals", shown, re.DOTALL)
    words = re.sub(r"(\w-) (\w)", r"\1\2", " ".join(text.split()))
    assert f"{', '.join(SIMPLE)}, call:MODULE.FUNCTION or run:COMMAND" in words


def test_anFTPTransferContinuesThroughAReload(tmp_path: Path) -> None:
    """
    On the passive port that the client received before.
    """
    plugin = Ftp(tmp_path, freePort())
    with serving(tmp_path, "ftp", *plugin.options) as daemon:
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", plugin.port, DEADLINE)
            client.login()
            host, number = client.makepasv()
            reload(daemon)
            with tcp(number, host)() as data:
                client.sendcmd("TYPE I")
                client.sendcmd("RETR file")
                assert data.recv(100) == b"its text\n"
            client.voidresp()
            plugin.check(daemon)
            # The old generation still opens passive ports for this client.
            assert retrieve(client) == [b"its text\n"]


def test_aThreadPoolEndsWithItsGeneration(tmp_path: Path) -> None:
    """
    C{web --wsgi} makes a thread pool that a shutdown trigger stops.
    """
    port = freePort()
    options = [f"--listen=tcp:{port}:interface=127.0.0.1", "--wsgi=wsgi.application"]
    (tmp_path / "wsgi.py").write_text(
        "def application(environ, start_response):\n"
        "    start_response('200 OK', [('Content-Length', '5')])\n"
        "    return [b'hello']\n"
    )
    with serving(tmp_path, "web", *options) as daemon:
        connect = tcp(port)
        fetch(connect)

        def threads() -> int:
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            (count,) = re.findall(r"^Threads:\t(.*)$", status, re.MULTILINE)
            return int(count)

        before = threads()
        with load(opening(connect), keeping(connect)):
            reload(daemon, 10)
        with closing(Web(connect)) as web:
            assert web.get() == b"hello"
        waitFor(lambda: threads() <= before, "its threads end")
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()


def test_reloadsParseTheCommandInItsDirectory(tmp_path: Path) -> None:
    """
    Even if the daemon works in another directory, by C{--rundir}.
    """
    port = freePort()
    (tmp_path / "index.html").write_text("its text")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = [f"--listen=tcp:{port}:interface=127.0.0.1", "--path=."]
    twistd = [f"--rundir={elsewhere}"]
    with serving(tmp_path, "web", *options, twistd=twistd) as daemon:
        assert fetch(tcp(port)) == b"its text"
        reload(daemon)
        assert fetch(tcp(port)) == b"its text"


def deploy(directory: Path, number: int) -> Path:
    """
    Make a release, and let the link C{current} point to it.
    """
    release = directory / f"release-{number}"
    release.mkdir()
    (release / "index.html").write_text(f"{number}")
    (directory / "link").symlink_to(release.name)
    (directory / "link").rename(directory / "current")
    return release


def test_reloadsFollowTheLinkToTheWorkingDirectory(tmp_path: Path) -> None:
    """
    Also when the old release was removed.  A reload that fails stays there.
    """
    port = freePort()
    options = [f"--listen=tcp:{port}:interface=127.0.0.1", "--path=."]
    first = deploy(tmp_path, 1)
    inLink = ["sh", "-c", 'cd current; exec "$@"', "sh"]
    twistd = ["--pidfile="]
    with serving(tmp_path, "web", *options, twistd=twistd, before=inLink) as daemon:
        assert fetch(tcp(port)) == b"1"
        second = deploy(tmp_path, 2)
        shutil.rmtree(first)
        reload(daemon)
        assert fetch(tcp(port)) == b"2"
        assert Path(f"/proc/{daemon.pid}/cwd").samefile(second)
        reload(daemon)
        assert fetch(tcp(port)) == b"2"


def test_sigusr1ReopensTheAccessLog(tmp_path: Path) -> None:
    """
    C{web --logfile} has a log of its own.
    """
    web = StaticWeb(tmp_path, freePort())
    log = tmp_path / "web.log"
    with serving(tmp_path, "web", *web.options) as daemon:
        web.check(daemon)
        log.rename(tmp_path / "moved")
        daemon.kill(SIGUSR1)
        daemon.waitForOutput(f"{log}: reopened")
        web.check(daemon)
        waitFor(lambda: "GET /" in log.read_text(), "the request is logged")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for chroot(2)")
def test_reloadsParseTheCommandInTheChroot(tmp_path: Path) -> None:
    """
    The directory in which the command was given cannot be reached.
    """
    port = freePort()
    (tmp_path / "jail" / "dev").mkdir(parents=True)
    # twistd opens it.
    (tmp_path / "jail" / "dev" / "null").touch()
    (tmp_path / "jail" / "file").write_text("its text")
    options = [f"--listen=tcp:{port}:interface=127.0.0.1", "--path=/"]
    # coverage would not find its files in there.
    before = ["env", "-u", "COVERAGE_PROCESS_CONFIG", "-u", "COVERAGE_PROCESS_START"]
    twistd = ["--chroot=jail", "--pidfile="]
    with serving(tmp_path, "web", *options, twistd=twistd, before=before) as daemon:
        assert fetch(tcp(port), "/file") == b"its text"
        reload(daemon)
        assert fetch(tcp(port), "/file") == b"its text"


def test_importsOnlyWhatEveryModeNeeds() -> None:
    """
    The modules of workers, of metrics and of the log of signals are not loaded.
    """
    program = "import sys, txsignalfd.tap; print(*sys.modules)"
    run = runPython("-c", program, check=True)
    unwanted = "_workers.(worker|supervisor)|_twistd.(metrics|signallog|usage)|syslog"
    assert re.findall(unwanted, run.stdout) == []


def test_pluginsThatWereFoundAreNotSearchedAgain() -> None:
    """
    The search imports the module of each, where they are found again.
    """
    assert installedPlugins()
    assert installedPlugins(areLoaded=True) == installedPlugins()


def test_importsCollectGarbageLessOften() -> None:
    """
    Afterwards the threshold is as before, or as a module has set it.
    """
    before = gc.get_threshold()
    with fewerCollections():
        assert gc.get_threshold()[0] > 10 * before[0]
    assert gc.get_threshold() == before
    try:
        with fewerCollections():
            gc.set_threshold(5)
        assert gc.get_threshold()[0] == 5
    finally:
        gc.set_threshold(*before)
