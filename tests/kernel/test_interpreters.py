"""
Signals in a process with several Python interpreters.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from signal import SIGUSR1, SIGUSR2

import pytest

from tests.support.descriptors import blockedSignals, descriptorOf, drained
from tests.support.kernel import forked
from tests.support.reactors import DEADLINE
from txsignalfd import SignalAlreadyWatched, SignalDescriptor, spawning
from txsignalfd._kernel import mask as _mask
from txsignalfd._native.extension import lib

#: Watch a signal, send it, and report what was received, or why it cannot be watched.
WATCH = """
import json, os, sys
sys.path[:] = {path}
from txsignalfd import SignalAlreadyWatched, SignalDescriptor, spawning
received = []
with spawning():
    pass
try:
    descriptor = SignalDescriptor([{signo}], received.extend)
except SignalAlreadyWatched as error:
    received = str(error)
else:
    os.kill(os.getpid(), {signo})
    descriptor.drain()
    if {close}:
        descriptor.close()
    received = [info.signo for info in received]
os.write({writer}, json.dumps(received).encode())
"""

Watch = Callable[..., object]


@pytest.fixture
def watchInSubinterpreter() -> Watch:
    """
    A function that runs the program in a subinterpreter, and returns its report.
    """
    import sys

    run = pytest.importorskip("_testcapi").run_in_subinterp

    def watch(signo: int, close: bool = True) -> object:
        reader, writer = os.pipe()
        code = WATCH.format(path=sys.path, signo=int(signo), writer=writer, close=close)
        assert run(code) == 0
        os.close(writer)
        with open(reader, "rb") as report:
            return json.load(report)

    return watch


@forked
def test_onlyOneInterpreterWatches(watchInSubinterpreter: Watch) -> None:
    """
    Another one gets SignalAlreadyWatched, and does not disturb the first.
    """
    with descriptorOf(SIGUSR1) as (descriptor, reads):
        for signo in (SIGUSR1, SIGUSR2):
            message = f"only one can: {signo.name} cannot be watched here"
            assert message in str(watchInSubinterpreter(signo))
            assert blockedSignals() == {SIGUSR1}
        os.kill(os.getpid(), SIGUSR1)
        assert drained(descriptor, reads, 1).signals == [SIGUSR1]
    assert blockedSignals() == set()


@forked
def test_interpretersMayWatchOneAfterAnother(watchInSubinterpreter: Watch) -> None:
    """
    The last signal of the first interpreter must be restored.
    """
    for _ in range(2):
        with descriptorOf(SIGUSR1) as (descriptor, reads):
            os.kill(os.getpid(), SIGUSR1)
            assert drained(descriptor, reads, 1).signals == [SIGUSR1]
        assert watchInSubinterpreter(SIGUSR1) == [SIGUSR1]


@forked
def test_signalIsRefusedWhileAnotherInterpreterWatches() -> None:
    """
    There is no spawn window, either.
    """
    assert lib.txs_interpreter_enter(1)
    with pytest.raises(SignalAlreadyWatched, match="another Python interpreter"):
        SignalDescriptor([SIGUSR1], print)
    assert isinstance(spawning(), nullcontext)
    lib.txs_interpreter_leave()
    with descriptorOf(SIGUSR1):
        assert blockedSignals() == {SIGUSR1}


@forked
def test_endOfAnInterpreterRestoresItsSignals(watchInSubinterpreter: Watch) -> None:
    """
    An interpreter may end without closing what it has opened.
    """
    assert watchInSubinterpreter(SIGUSR1, close=False) == [SIGUSR1]
    assert blockedSignals() == set()
    assert watchInSubinterpreter(SIGUSR1) == [SIGUSR1]


@forked
def test_endOfTheMainInterpreterRestoresNothing() -> None:
    """
    A pending signal does not kill a process that exits.
    """
    with descriptorOf(SIGUSR1):
        atexit._run_exitfuncs()
        assert blockedSignals() == {SIGUSR1}


@forked
def test_endOfAnInterpreterInAnotherThread() -> None:
    """
    The main interpreter ends in the main thread.
    """
    with descriptorOf(SIGUSR1) as (descriptor, _), ThreadPoolExecutor(1) as pool:
        pool.submit(_mask._restoreAtExit).result(DEADLINE)
        assert descriptor.signals == frozenset()
