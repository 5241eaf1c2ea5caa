"""
Unchanged servers of other projects reload under load, and no request fails.

C{pip install --group servers} installs them.
"""

from __future__ import annotations

import base64
import json
import os
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.support.clients import Connect, Web, keeping, load, opening, tcp
from tests.support.daemons import reload, serving
from tests.support.freeports import freePort

#: The reloads of each server.
RELOADS = 10


def _needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_spec(package) is None,
        reason=f"needs {package}: pip install --group servers",
    )


class WebSocket:
    """
    A WebSocket client for short messages: RFC 6455.
    """

    def __init__(self, connect: Connect, path: str) -> None:
        self._socket = connect()
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        assert self._file.readline().split()[1] == b"101"
        while self._file.readline() != b"\r\n":
            pass

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode()
        assert len(text) < 126
        mask = bytes(4)
        self._socket.sendall(bytes([0x81, 0x80 | len(text)]) + mask + text)

    def receive(self) -> Any:
        kind, length = self._file.read(2)
        assert kind == 0x81
        if length == 126:
            length = int.from_bytes(self._file.read(2), "big")
        return json.loads(self._file.read(length))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@_needs("klein")
def test_klein(tmp_path: Path) -> None:
    """
    As the resource of C{twistd web}.  A slow response comes from the generation
    that received the request.
    """
    (tmp_path / "app.py").write_text(
        "from klein import Klein\n"
        "from twisted.internet import reactor, task\n"
        "\n"
        "def resource():\n"
        "    app = Klein()\n"
        "\n"
        "    @app.route('/')\n"
        "    def hello(request):\n"
        "        return b'hello'\n"
        "\n"
        "    @app.route('/slow')\n"
        "    async def slow(request):\n"
        "        await task.deferLater(reactor, 0.1)\n"
        "        return b'slow'\n"
        "\n"
        "    return app.resource()\n"
    )
    port = freePort()
    listen = f"--listen=tcp:{port}:interface=127.0.0.1"
    with serving(tmp_path, "web", listen, "--class=app.resource") as daemon:
        with load(opening(tcp(port)), keeping(tcp(port))):
            for _ in range(RELOADS):
                with closing(Web(tcp(port))) as web:
                    web.send("/slow")
                    reload(daemon)
                    assert web.receive() == b"slow"
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()


@_needs("wormhole_mailbox_server")
def test_magicWormholeMailboxServer(tmp_path: Path) -> None:
    """
    With an open WebSocket and a database.
    """
    port = freePort()
    command = [
        "wormhole-mailbox",
        f"--port=tcp:{port}:interface=127.0.0.1",
        "--channel-db=relay.sqlite",
    ]
    with serving(tmp_path, *command) as daemon:
        with closing(WebSocket(tcp(port), "/v1")) as client:
            assert client.receive()["type"] == "welcome"
            with load(opening(tcp(port)), keeping(tcp(port))):
                reload(daemon, RELOADS)
            client.send({"type": "ping", "ping": 7})
            while (answer := client.receive())["type"] == "ack":
                pass
            assert answer["pong"] == 7
        with closing(WebSocket(tcp(port), "/v1")) as client:
            assert client.receive()["type"] == "welcome"
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()


@_needs("scrapyd")
def test_scrapyd(tmp_path: Path) -> None:
    """
    Its application as a plugin; its configuration is read again.
    """
    port = freePort()
    config = tmp_path / "scrapyd.conf"
    text = f"[scrapyd]\nhttp_port = {port}\nnode_name = old\n"
    config.write_text(text)
    (tmp_path / "scrapyd_service.py").write_text(
        "from scrapyd import get_application\n"
        "from scrapyd.config import Config\n"
        "from twisted.application.service import IService\n"
        "from twisted.python.usage import Options\n"
        "\n"
        "def makeService(options):\n"
        "    return IService(get_application(Config()))\n"
    )
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    plugins.joinpath("scrapyd_plugin.py").write_text(
        "from twisted.application.service import ServiceMaker\n"
        "scrapyd = ServiceMaker('scrapyd', 'scrapyd_service', '', 'scrapyd')\n"
    )
    with serving(tmp_path, "scrapyd") as daemon:

        def name() -> str:
            with closing(Web(tcp(port))) as web:
                return str(json.loads(web.get("/daemonstatus.json"))["node_name"])

        assert name() == "old"
        with load(opening(tcp(port)), keeping(tcp(port))):
            reload(daemon, RELOADS)
            config.write_text(text.replace("old", "new"))
            reload(daemon)
            assert name() == "new"
        assert daemon.stop() == -SIGTERM
        assert "Traceback" not in daemon.output()
