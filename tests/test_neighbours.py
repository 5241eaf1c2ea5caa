"""
Signals in a process with other threads, and with other code that handles signals.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from signal import SIGCHLD, SIGHUP, SIGRTMIN, SIGTERM, SIGUSR1, SIGUSR2
from typing import Any

import pytest

from tests.support.daemons import program, python, waitFor
from tests.support.descriptors import descriptorOf
from tests.support.forkserver import TWISTD
from tests.support.handlers import Recorder, recording, sender
from tests.support.inreactor import inReactor
from tests.support.processes import runProgram
from tests.support.reactors import DEADLINE, until, untilLength
from tests.support.threads import busyThreads
from tests.support.worlds import needsLinux, queue, send
from txsignalfd import SignalDispatcher

#: Sends a standard signal for each byte: the receiver watches it, or has the last one.
SPACED = """
import os, sys
for _ in range(int(sys.argv[3])):
    assert os.read(0, 1)
    os.kill(int(sys.argv[1]), int(sys.argv[2]))
"""


@inReactor
async def test_realtimeSignalsArriveDespiteBusyThreads(
    dispatcher: SignalDispatcher,
) -> None:
    """
    10,000 signals arrive unchanged, and in order.
    """
    count = 10_000
    got = Recorder()
    with busyThreads():
        dispatcher.addHandler(SIGRTMIN, got)
        process = sender(SIGRTMIN, count)
        await untilLength(got.infos, count)
        assert process.wait(DEADLINE) == 0
    assert got.values == list(range(count))
    assert {(info.pid, info.uid) for info in got.infos} == {(process.pid, os.getuid())}
    assert {info.codeName for info in got.infos} == {"SI_QUEUE"}


@inReactor
async def test_standardSignalsArriveDespiteBusyThreads(
    dispatcher: SignalDispatcher,
) -> None:
    """
    2,000 signals arrive, each of which is sent when the last has arrived.
    """
    count = 1_000
    with busyThreads():
        for signo in (SIGUSR1, SIGCHLD):
            got = Recorder()
            process = sender(signo, count, SPACED, stdin=subprocess.PIPE)
            stdin = process.stdin
            assert stdin is not None

            def confirm(info: Any, got: Recorder = got, stdin: Any = stdin) -> None:
                if info.codeName == "SI_USER":
                    got(info)
                    if len(got.infos) < count:
                        os.write(stdin.fileno(), b"x")

            registration = dispatcher.addHandler(signo, confirm)
            os.write(stdin.fileno(), b"x")
            await until(lambda got=got: len(got.infos) == count)  # type: ignore[misc]
            stdin.close()
            assert process.wait(DEADLINE) == 0
            registration.remove()
            assert {info.pid for info in got.infos} == {process.pid}


@inReactor
async def test_endOfAChildArrivesDespiteBusyThreads(
    dispatcher: SignalDispatcher,
) -> None:
    got = recording(dispatcher, SIGCHLD)
    with busyThreads():
        for status in range(50):
            # No fork: it would measure its coverage, which takes it longer.
            pid = os.posix_spawnp("sh", ["sh", "-c", f"exit {status}"], os.environ)
            await until(lambda status=status: len(got.infos) > status)  # type: ignore[misc]
            child = got.infos[-1].child
            assert child is not None
            assert (child.pid, child.exitCode) == (pid, status)
            os.waitpid(pid, 0)


OPENBLAS = """
import os, signal, subprocess, sys, threading
import numpy
matrix = numpy.ones((150, 150))
matrix @ matrix
threads = len(os.listdir("/proc/self/task"))
from twisted.internet import reactor
from txsignalfd import dispatcherFor
got = []
dispatcher = dispatcherFor(reactor)
def received(info):
    got.append(info.value)
    matrix @ matrix
    if len(got) == 200:
        print(threads > 1, sorted(got) == list(range(200)), flush=True)
        reactor.stop()
dispatcher.addHandler(signal.SIGRTMIN, received)
print("ready", flush=True)
reactor.run()
"""


def test_openblasThreadsTakeNoSignals(tmp_path: Path) -> None:
    """
    Python does not know the threads of this C library.
    """
    # Imported here, its threads would be in this process for all other tests.
    if importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy is not installed")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("with one CPU OpenBLAS starts no threads")
    with python(tmp_path, OPENBLAS) as running:
        running.waitForOutput("ready")
        assert sender(SIGRTMIN, 200, pid=running.pid).wait(DEADLINE) == 0
        assert running.wait() == 0
        assert running.output() == "ready\nTrue True\n"


def test_faulthandlerDumpsForOtherSignals(tmp_path: Path) -> None:
    """
    It dumps again for a watched signal when that is restored.
    """
    with (tmp_path / "dump").open("w+") as dump:
        faulthandler.register(SIGUSR1, dump)
        faulthandler.register(SIGUSR2, dump)
        try:
            with descriptorOf(SIGUSR1) as (descriptor, reads):
                send(SIGUSR1, SIGUSR2)
                descriptor.drain()
                assert len(reads.infos) == 1
            once = (tmp_path / "dump").read_text().count("Current thread")
            assert once == 1
            send(SIGUSR1)
            assert (tmp_path / "dump").read_text().count("Current thread") == 2
        finally:
            faulthandler.unregister(SIGUSR1)
            faulthandler.unregister(SIGUSR2)


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_debuggerMayAttach(tmp_path: Path) -> None:
    with program(tmp_path, TWISTD, "-n", "signalfd") as daemon:
        daemon.waitForOutput("watches")
        gdb = ["gdb", "-nx", "-batch", "-p", str(daemon.pid), "-ex", "info threads"]
        result = runProgram(*gdb, stdin=subprocess.DEVNULL)
        if "ptrace" in result.stderr:
            pytest.skip("this system does not allow a debugger to attach")
        assert "Thread" in result.stdout or "LWP" in result.stdout, result
        daemon.kill(SIGHUP)
        daemon.waitForOutput("SIGHUP from pid")
        assert daemon.stop() == -SIGTERM


def pkillHasH() -> bool:
    """
    Return whether there is a pkill(1) with the option C{-H}.
    """
    pkill = shutil.which("pkill")
    if pkill is None:
        return False
    shown = subprocess.run([pkill, "--help"], capture_output=True, check=False)
    return b"-H" in shown.stdout


@pytest.mark.skipif(not pkillHasH(), reason="there is no pkill that knows -H")
def test_pkillFindsThatTheSignalIsHandled(tmp_path: Path) -> None:
    """
    C{pkill -H -HUP} does not signal processes that would die.
    """
    with program(tmp_path, TWISTD, "-n", "signalfd", "--signals", "HUP,TERM") as daemon:
        daemon.waitForOutput("watches")
        command = ["pkill", "-H", "-HUP", "-P", str(os.getpid()), "twistd"]
        subprocess.run(command, check=True, timeout=DEADLINE)
        daemon.waitForOutput("SIGHUP from pid")
        assert daemon.stop() == -SIGTERM


@pytest.mark.parametrize("run", [1, 2])
@pytest.mark.parametrize(
    "backend", [pytest.param("signalfd", marks=needsLinux), "handler"]
)
@inReactor
async def test_manyEndedThreadsDoNotKeepTheMaskFromBeingRestored(
    reactor: Any, backend: str, run: int
) -> None:
    """
    There are more interrupted threads than the table has entries.
    """
    count = 300
    begin = threading.Barrier(count + 1)

    def interrupted() -> None:
        begin.wait(DEADLINE)
        signal.raise_signal(SIGRTMIN)

    threads = [threading.Thread(target=interrupted) for _ in range(count)]
    for thread in threads:
        thread.start()
    dispatcher, got = SignalDispatcher(reactor, backend), Recorder()
    dispatcher.addHandler(SIGRTMIN, got)
    begin.wait(DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    queue(*range(1000))
    await until(lambda: len(got.values) - got.values.count(None) == 1000)
    await dispatcher.close()


def test_startingAndEndingThreadsLoseNoSignals() -> None:
    """
    A thread inherits the mask, or receives one signal.
    """
    waitForThread = threading.Event()
    with busyThreads(2), descriptorOf(SIGRTMIN) as (descriptor, reads):

        def churn() -> None:
            for _ in range(200):
                thread = threading.Thread(target=waitForThread.is_set)
                thread.start()
                thread.join()

        starter = threading.Thread(target=churn)
        starter.start()
        for value in range(5000):
            queue(value)
        starter.join()

        def read() -> bool:
            descriptor.drain()
            return len(reads.infos) >= 5000

        waitFor(read, "all have come")
        assert sorted(info.int for info in reads.infos) == list(range(5000))
