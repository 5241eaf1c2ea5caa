# -*- test-case-name: tests.control.test_check -*-
"""
Parse a command line of twistd, and load a program, without opening a port.

A port that the program opens while it is loaded is usually in use: by the daemon whose
configuration is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.posixbase import PosixReactorBase

# Private to Twisted, which offers no public way to parse the options of twistd.
from twisted.scripts._twistd_unix import ServerOptions as ServerOptions  # noqa: PLC0414
from zope.interface import implementer


class CheckedOptions(ServerOptions):
    """
    The options of twistd, for a command line that is only checked.

    @cvar isCheckOnly: Read by L{txsignalfd.tap.Options}.
    """

    isCheckOnly = True


@implementer(IListeningPort)
class UnopenedPort:
    """
    The result of C{listenTCP} and its like: a port that does not listen.
    """

    def __init__(self, address: Any) -> None:
        self._address = address

    def startListening(self) -> None:
        """
        Do nothing.
        """

    def stopListening(self) -> Deferred[None]:
        """
        Do nothing.
        """
        return succeed(None)

    def getHost(self) -> Any:
        """
        Return the address where it was to listen.
        """
        return self._address


def _internet(kind: Any) -> Callable[..., UnopenedPort]:
    def listen(
        reactor: object,
        port: int,
        *args: object,
        interface: str = "",
        **options: object,
    ) -> UnopenedPort:
        return UnopenedPort(IPv4Address(kind, interface or "0.0.0.0", port))  # noqa: S104

    return listen


def _path(reactor: object, address: Any, *args: object, **options: object) -> Any:
    return UnopenedPort(UNIXAddress(address))


def _adopted(*args: object, **options: object) -> UnopenedPort:
    return UnopenedPort(IPv4Address("TCP", "0.0.0.0", 0))  # noqa: S104


_METHODS: Final[dict[str, Callable[..., Any]]] = {
    "listenTCP": _internet("TCP"),
    "listenSSL": _internet("TCP"),
    "listenUDP": _internet("UDP"),
    "listenMulticast": _internet("UDP"),
    "listenUNIX": _path,
    "listenUNIXDatagram": _path,
    "adoptStreamPort": _adopted,
    "adoptDatagramPort": _adopted,
}


def openNoPorts() -> Callable[[], None]:
    """
    Replace the methods of all reactors by which ports are opened.

    The class is patched, because the options of twistd may choose another reactor.

    @return: A function that restores them.
    """
    before = {name: getattr(PosixReactorBase, name) for name in _METHODS}
    for name, method in _METHODS.items():
        setattr(PosixReactorBase, name, method)

    def restore() -> None:
        for name, method in before.items():
            setattr(PosixReactorBase, name, method)

    return restore
