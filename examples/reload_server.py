"""
An HTTPS server that reloads its settings and its certificate on SIGHUP.

    python examples/reload_server.py

The settings are in C{settings.json}, the certificate and its key in C{server.pem}.
Open connections keep the settings and the certificate that they began with.  If one
of the two files is bad, nothing changes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from signal import SIGHUP
from typing import Any

from twisted.application.internet import SSLServer
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.ssl import PrivateCertificate
from twisted.python import log
from twisted.web.resource import Resource
from twisted.web.server import Site

from txsignalfd import ReloadService, SignalService


class Page(Resource):
    """
    A page with the text of the settings.
    """

    isLeaf = True

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text.encode()

    def render_GET(self, request: Any) -> bytes:
        """
        Return the page.
        """
        return self.text


class Certificate:
    """
    The certificate of new connections, a participant of each reload.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.options = self.load()

    def load(self) -> Any:
        """
        Read the file.
        """
        with open(self.path, "rb") as pem:
            return PrivateCertificate.loadPEM(pem.read()).options()

    def prepare(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """
        Read the file, for use when the new settings are good too.
        """
        new = self.load()

        def commit() -> None:
            self.options = new

        return commit, lambda: log.msg("the old certificate stays")

    def getContext(self) -> Any:
        """
        Return the TLS context of a new connection.
        """
        return self.options.getContext()


def makeService() -> SSLServer:
    """
    Make the server from the current settings.
    """
    with open("settings.json", encoding="utf-8") as file:
        settings = json.load(file)
    site = Site(Page(settings["text"]))
    return SSLServer(settings["port"], site, certificate, interface="127.0.0.1")


log.startLogging(sys.stdout, setStdout=False)
certificate = Certificate("server.pem")
reloads = ReloadService(makeService, drain=10)
reloads.addParticipant(certificate.prepare)
application = MultiService()
SignalService({SIGHUP: reloads.reload}).setServiceParent(application)
reloads.setServiceParent(application)
application.privilegedStartService()
application.startService()
main: Any = reactor
main.addSystemEventTrigger("before", "shutdown", application.stopService)
main.run(installSignalHandlers=False)
