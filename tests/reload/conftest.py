"""
Fixtures of tests of reloads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import twisted.internet

from tests.support.ports import PortFactory
from tests.support.websites import IDLE, HTTP2Client, secureClient, secureSite


@pytest.fixture
def closesIdleSoon(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let a stop close idle connections soon.
    """
    monkeypatch.setattr("txsignalfd._reload.generation.IDLE", IDLE)


@pytest.fixture
def http2(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Return a function that connects by HTTP/2 to a port, which its C{listen} opens.
    """
    pem = certificate.read_bytes()

    async def connect(reactor: Any, made: PortFactory) -> HTTP2Client:
        # C{twisted.web} makes channels of HTTP/2 for the global reactor.
        monkeypatch.setattr(twisted.internet, "reactor", reactor, raising=False)
        client = HTTP2Client(await secureClient(reactor, made.port, "h2"))
        await client.tls.connect()
        return client

    connect.listen = lambda page: secureSite(page, pem)  # type: ignore[attr-defined]
    return connect
