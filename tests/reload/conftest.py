"""
Fixtures of tests of reloads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import twisted.internet

from tests.support.ports import running
from tests.support.reactors import currentReactor
from tests.support.websites import IDLE, HTTP2Client, Page, secureClient, secureSite


@pytest.fixture
def closesIdleSoon(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let a stop close idle connections soon.
    """
    monkeypatch.setattr("txsignalfd._reload.generation.IDLE", IDLE)


@pytest.fixture
def secure(certificate: Path) -> Any:
    """
    Return a context manager for a site by TLS, and a client without a handshake.
    """
    pem = certificate.read_bytes()

    @asynccontextmanager
    async def browsing(*protocols: str, **options: Any) -> AsyncIterator[Any]:
        page = Page()
        async with running(secureSite(page, pem), **options) as (reloads, made):
            yield page, reloads, await secureClient(made.port, *protocols)

    return browsing


@pytest.fixture
def http2(secure: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    Return a context manager for a site, and a client of HTTP/2.
    """

    @asynccontextmanager
    async def browsing(**options: Any) -> AsyncIterator[Any]:
        # C{twisted.web} makes channels of HTTP/2 for the global reactor.
        reactor = currentReactor()
        monkeypatch.setattr(twisted.internet, "reactor", reactor, raising=False)
        async with secure("h2", **options) as (page, reloads, tls):
            await tls.connect()
            yield page, reloads, HTTP2Client(tls)

    return browsing
