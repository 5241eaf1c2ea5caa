"""
The answers of a daemon, to requesters that behave badly.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from signal import SIGHUP, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from tests.support.records import record
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.transaction import History
from txsignalfd._twistd import answers as module
from txsignalfd._twistd.actions import Action
from txsignalfd._twistd.answers import Answers
from txsignalfd._twistd.requests import (
    LONGEST,
    REMEMBERED,
    Request,
    Requests,
    replyAddress,
)
from txsignalfd._twistd.status import DaemonStatus
from txsignalfd.siginfo import SigInfo, parse

RELOAD, STOP, ROTATE, STATUS = 8 | 1, 8 | 2, 8 | 3, 8 | 4


@pytest.fixture
def requests() -> Iterator[Requests]:
    with closing(Requests()) as made:
        yield made


@pytest.fixture
def asking() -> Iterator[Callable[[int], socket.socket]]:
    """
    Make the socket of a requester, by its token.
    """
    made: list[socket.socket] = []

    def ask(token: int) -> socket.socket:
        made.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        made[-1].bind(replyAddress(os.getpid(), token))
        made[-1].setblocking(False)
        return made[-1]

    yield ask
    for each in made:
        each.close()


def request(token: int) -> Request:
    return Request(os.getpid(), token)


def test_aRequesterThatDoesNotReadLosesAnswers(
    requests: Requests, asking: Callable[[int], socket.socket]
) -> None:
    """
    The daemon does not wait for it.
    """
    asking(RELOAD)
    for _ in range(1000):
        requests.report(request(RELOAD), "still here")
    assert requests.acknowledge(request(RELOAD))


def test_aRequesterThatHasEndedIsForgotten(requests: Requests) -> None:
    """
    The signal counts as one of another program.
    """
    requests.answer(request(RELOAD), "done", succeeded=True)
    assert not requests.acknowledge(request(RELOAD))


@pytest.mark.parametrize("token", [RELOAD, STATUS])
def test_aRequestThatIsRepeatedTooLateIsNoOtherSignal(
    requests: Requests, asking: Callable[[int], socket.socket], token: int
) -> None:
    """
    The requester has its answer already, and has ended.
    """
    receiver = asking(token)
    assert requests.acknowledge(request(token))
    assert requests.remember(request(token))
    receiver.close()
    assert requests.acknowledge(request(token))


def test_aFloodOfRequestsIsForgotten(requests: Requests) -> None:
    """
    Only the last ones are remembered.
    """
    tokens = [number << 3 | 1 for number in range(1, REMEMBERED + 2)]
    assert all(requests.remember(request(token)) for token in tokens)
    assert not requests.remember(request(tokens[-1]))
    assert requests.remember(request(tokens[0]))


def test_aLongAnswerIsCut(
    requests: Requests, asking: Callable[[int], socket.socket]
) -> None:
    """
    Or replaced: it has to fit into a datagram.
    """
    receiver = asking(RELOAD)
    requests.answer(request(RELOAD), "x" * 10 * LONGEST, succeeded=True)
    assert len(receiver.recv(1 << 20)) < LONGEST + 100
    requests.answer(request(RELOAD), "", succeeded=True, data="x" * (1 << 22))
    assert receiver.recv(1 << 20) == (
        b"STATUS=the answer does not fit into a datagram\nX_EXIT_STATUS=1"
    )


class Reloads(ReloadService):
    """
    A service that is not reloaded.
    """

    def __init__(self, connections: int = 1) -> None:
        super().__init__(lambda: None, reactor=Clock())
        self.connections = connections
        self.requested = 0

    @property
    def generations(self) -> Any:
        """
        One that drains.
        """
        return [Draining(self.connections)]

    def reload(self, info: Any = None) -> Any:
        self.requested += 1


class Draining:
    def __init__(self, connections: int) -> None:
        self.connections = connections

    def status(self) -> dict[str, Any]:
        return {"connections": self.connections, "addresses": []}


def receive(
    reloads: Reloads, *tokens: int, action: str = "reload", handler: Any = None
) -> None:
    """
    Receive requests, and end.
    """
    status = DaemonStatus(reloads, History(), "/")
    answers = Answers(reloads, status, lambda: succeed(None), Clock())
    signals = {"reload": SIGHUP, "rotate": SIGUSR1, "stop": SIGTERM, "report": SIGUSR2}
    signo = signals[action]
    with closing(answers):
        for token in tokens:
            (info,) = parse(record(signo, code=-1, pid=os.getpid(), int=token))
            answers.receive(info, Action(action), handler or reloads.reload)


def test_aRequestDuringTheStopIsRefused(asking: Callable[[int], socket.socket]) -> None:
    """
    The reason says that there will be no reload.
    """
    receiver = asking(RELOAD)
    receive(Reloads(), RELOAD)
    assert receiver.recv(100) == b"X_ACKNOWLEDGED=1"
    assert receiver.recv(100) == (
        b"STATUS=not reloaded: the service is being stopped\nX_EXIT_STATUS=1"
    )


def test_aRepeatedRequestHasTheSameAnswer(
    asking: Callable[[int], socket.socket],
) -> None:
    """
    The action is not done again.
    """
    receiver = asking(RELOAD)
    reloads = Reloads()
    receive(reloads, RELOAD, RELOAD)
    assert reloads.requested == 1
    *_, last = [receiver.recv(100) for _ in range(3)]
    assert last.endswith(b"X_EXIT_STATUS=1")


def test_anActionThatFailsIsAnAnswer(asking: Callable[[int], socket.socket]) -> None:
    """
    The dispatcher logs the failure.
    """

    def fail(info: SigInfo) -> None:
        raise RuntimeError("no disk")

    receiver = asking(ROTATE)
    with pytest.raises(RuntimeError):
        receive(Reloads(), ROTATE, action="rotate", handler=fail)
    assert receiver.recv(100) == b"X_ACKNOWLEDGED=1"
    assert receiver.recv(100) == b"STATUS=RuntimeError: no disk\nX_EXIT_STATUS=1"


def test_aStatusThatCannotBeMadeIsAnswered(
    asking: Callable[[int], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    With the reason.
    """

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(DaemonStatus, "__call__", fail)
    receiver = asking(STATUS)
    receive(Reloads(), STATUS, action="report")
    assert receiver.recv(100) == b"X_ACKNOWLEDGED=1"
    assert receiver.recv(100) == b"STATUS=RuntimeError: no memory\nX_EXIT_STATUS=1"


def test_severalMayRequestTheStop(asking: Callable[[int], socket.socket]) -> None:
    """
    Each of them is told about the connections that drain.
    """
    first, second = asking(STOP), asking(STOP + 8)
    receive(Reloads(), STOP, STOP + 8, action="stop")
    assert first.recv(100) == second.recv(100) == b"X_ACKNOWLEDGED=1"
    assert first.recv(100) == b"STATUS=stopping: 1 connection drains"


def test_withoutConnectionsAStopHasNoProgress(
    asking: Callable[[int], socket.socket],
) -> None:
    """
    The requester waits for the end.
    """
    receiver = asking(STOP)
    receive(Reloads(connections=0), STOP, action="stop")
    assert receiver.recv(100) == b"X_ACKNOWLEDGED=1"
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


def test_tooManyRequestsAreRefused(
    asking: Callable[[int], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The daemon keeps a bounded number of requesters.
    """
    monkeypatch.setattr(module, "REMEMBERED", 1)
    first, second = RELOAD, RELOAD + 8
    asking(first)
    receiver = asking(second)
    reloads = Reloads()
    reloads.running = True
    receive(reloads, first, second)
    assert reloads.requested == 1
    receiver.recv(100)
    assert receiver.recv(100).startswith(b"STATUS=1 other requests wait: not accepted")
