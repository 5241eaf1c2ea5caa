"""
Messages between the supervisor and a worker.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.support.inreactor import inReactor
from txsignalfd._workers.channel import Channel, Message, socketPair


class End(Channel):
    """
    A channel that collects what it receives.
    """

    def __init__(self, end: Any, reactor: Any) -> None:
        self.messages: list[Message] = []
        self.lost: Deferred[None] = Deferred()
        self._wanted: Deferred[Message] | None = None
        super().__init__(end, reactor, self._receive_, lambda: self.lost.callback(None))

    def _receive_(self, message: Message) -> None:
        self.messages.append(message)
        if self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            wanted.callback(message)

    def next(self) -> Deferred[Message]:
        self._wanted = Deferred()
        return self._wanted


def pair(reactor: Any) -> tuple[End, End]:
    one, other = socketPair()
    return End(one, reactor), End(other, reactor)


@inReactor
async def test_aMessageBringsADescriptor(reactor: Any) -> None:
    """
    It is a duplicate, which no child inherits.
    """
    one, other = pair(reactor)
    read, write = os.pipe()
    other.start()
    one.send([write], text="here it is")
    message = await other.next()
    (copy,) = message.descriptors
    assert message.fields == {"text": "here it is"}
    assert not os.get_inheritable(copy)
    os.write(copy, b"through")
    assert os.read(read, 100) == b"through"
    for fd in (read, write, copy):
        os.close(fd)
    one.close()
    await other.lost


@inReactor
async def test_aRequestWaitsForItsAnswer(reactor: Any) -> None:
    """
    A message that arrives before the answer is received afterwards.
    """
    one, other = pair(reactor)
    one.send(text="early")
    one.send(answer={"all": "well"})
    other.start()
    received = other.next()
    assert other.request(text="question").fields == {"answer": {"all": "well"}}
    assert other.messages == []
    assert (await received).fields == {"text": "early"}
    other.close()
    one.close()


@inReactor
async def test_earlyMessagesKeepTheirOrder(reactor: Any) -> None:
    """
    They are received before those that arrive later, also before the start.
    """
    one, other = pair(reactor)
    one.send(number=1)
    one.send(answer={})
    other.request()
    one.send(number=2)
    other.start()
    other.doRead()
    assert [each.fields["number"] for each in other.messages] == [1, 2]
    other.close()
    # The reactor may still have the descriptor in its list.
    other.doRead()
    one.close()


@inReactor
async def test_theEndOfTheOtherProcessIsNoticed(reactor: Any) -> None:
    """
    By a request, and by the channel; a message is lost.
    """
    one, other = pair(reactor)
    one.close()
    one.close()
    other.send(text="lost")
    with pytest.raises(ConnectionError, match="the supervisor has ended"):
        other.request(text="question")
    other.start()
    await other.lost


@inReactor
async def test_aFloodOfMessagesLeavesTurnsToOthers(reactor: Any) -> None:
    """
    The rest is received in the next turn.
    """
    one, other = pair(reactor)
    for number in range(65):
        one.send(number=number)
    other.doRead()
    assert len(other.messages) == 64
    other.doRead()
    assert len(other.messages) == 65
    other.close()
    one.close()
