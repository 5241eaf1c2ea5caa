"""
Fixtures; each test leaves the process as it found it.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext, suppress
from inspect import signature
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import pytest
from hypothesis import settings
from twisted.internet import tcp
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from tests.support import forkserver
from tests.support.certificates import writeCertificate
from tests.support.forkserver import ForkServer, freshInterpreters
from tests.support.freeports import freePort
from tests.support.handlers import handling
from tests.support.kernel import inChild, limitOfPendingSignals
from tests.support.observers import Logged
from tests.support.reactors import DEADLINE, KINDS, newReactor
from tests.support.worlds import WORLDS, using
from txsignalfd._kernel import threads
from txsignalfd._reload.service import ReloadService

# The duration of an example depends on the load of the machine.
settings.register_profile("unhurried", deadline=None, database=None)
settings.load_profile("unhurried")


def _signalState() -> dict[str, str]:
    """
    Return the mask, the dispositions and the pending signals of this process.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        fields = dict(
            line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line
        )
    return {name: fields[name] for name in ("SigBlk", "SigIgn", "SigCgt", "ShdPnd")}


def _descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the descriptor that lists the others
    return found


def _children() -> str:
    children = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as listed:
                children.append(listed.read())
        except FileNotFoundError:
            continue  # a thread that has just ended
    return "".join(children)


def _state() -> dict[str, Any]:
    return {
        "signals": _signalState(),
        "handlers": {signo: signal.getsignal(signo) for signo in signal.Signals},
        "descriptors": _descriptors(),
        "threads": set(threading.enumerate()),
        "tasks": set(os.listdir("/proc/self/task")),
        "children": _children(),
        # Replaced while signals are watched.
        "starters": [os.posix_spawn, os.posix_spawnp],
    }


# nohup(1) ignores SIGHUP, and a shell without job control SIGINT and SIGQUIT of a
# background job.  The daemons of the tests would inherit that, and keep it.
for _signo, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signo) is signal.SIG_IGN:
        signal.signal(_signo, _handler)


if "PYTEST_XDIST_WORKER" in os.environ:
    # Only in this thread: see pytest_sessionstart.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """
    Let pytest-xdist run whole directories in several processes.

    Tests wait most of the time, so twice as many processes as cores are faster.  Runs
    of files alone stay in one process, and so do those with C{-n0} or C{--pdb}.
    """
    wanted = getattr(config.option, "numprocesses", 0)
    isWorker = "PYTEST_XDIST_WORKER" in os.environ
    if wanted is None and not isWorker and any(map(os.path.isdir, config.args)):
        # Not all systems have it.
        usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
        workers = 0 if config.option.usepdb else min(2 * len(usable(0)), 16)
        config.option.numprocesses = workers
        config.option.dist = "worksteal"


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart() -> Iterator[None]:
    """
    Start the processes of pytest-xdist with all signals blocked.

    Each has a thread that receives its work.  The signals of a test would otherwise
    reach that thread, also while the test blocks them.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture(scope="session", autouse=True)
def acquireWhatStays() -> None:
    """
    Let the C library and libuv acquire what they never release.
    """
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join()
    for kind in KINDS:
        with newReactor(kind):
            gc.collect()
    # Twisted's TLS uses the clock of the global reactor.
    importlib.import_module("twisted.internet.reactor")
    # The descriptor that Twisted reserves for accepting when no other is left.
    tcp._reservedFD.reserve()


@pytest.fixture(scope="session", autouse=True)
def roomForPendingSignals() -> Iterator[None]:
    """
    Tests that queue many signals leave room for L{tests.dispatch.test_sequences}.

    All processes of a user share RLIMIT_SIGPENDING, also those of other test runs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    with limitOfPendingSignals(limit - limit // 8):
        yield


@pytest.fixture(scope="session", autouse=True)
def prepared(roomForPendingSignals: None) -> Iterator[None]:
    """
    Start most programs by a fork: see L{tests.support.forkserver}.
    """
    if "TXSIGNALFD_FRESH" in os.environ or not hasattr(os, "pidfd_open"):
        yield
        return
    forkserver.current = ForkServer()
    yield
    forkserver.current.close()
    forkserver.current = None


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """
    Wait for threads that a busy machine has stopped.

    The handler of a realtime signal stays installed until each thread has answered.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "PATIENCE", DEADLINE)
        yield


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Start the programs of a test with the mark C{fresh} with fresh interpreters.
    """
    isFresh = request.node.get_closest_marker("fresh")
    with freshInterpreters() if isFresh else nullcontext():
        yield


@pytest.fixture(autouse=True)
def nothingLeftBehind() -> Iterator[None]:
    """
    Check that a test changes no mask, disposition, descriptor, thread and child.
    """
    gc.collect()
    # Collecting all older objects after each test would slow the tests down.
    gc.freeze()
    before = _state()
    yield
    gc.collect()
    # A thread exists for a moment after it was joined, and could receive signals of
    # the next test.
    deadline = monotonic() + DEADLINE
    while _state()["tasks"] != before["tasks"] and monotonic() < deadline:
        sleep(0.001)
    after = _state()
    # A child that is left makes only this test fail: some tests wait until this process
    # has no children.
    for pid in {*after["children"].split()} - {*before["children"].split()}:
        with suppress(ProcessLookupError, ChildProcessError):  # reaped meanwhile
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)
    assert after == before


@pytest.fixture
def logged() -> Iterator[Logged]:
    """
    The events that are logged during the test.
    """
    events = Logged()

    def observe(event: LogEvent) -> None:
        # log.err, by which reactors log errors of descriptors, has another key.
        if "failure" in event:
            event = {**event, "log_failure": event["failure"]}
        events.append(event)

    observer = cast(ILogObserver, observe)
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


@pytest.fixture
def port() -> int:
    """
    A free port.
    """
    return freePort()


@pytest.fixture
def restoredHandlers() -> Iterator[None]:
    """
    Restore the handlers that Twisted replaces.
    """
    with ExitStack() as stack:
        for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            stack.enter_context(handling(signo, signal.getsignal(signo)))
        yield


@pytest.fixture
def withoutPause(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let reloads follow each other without a pause; L{Pace} has tests of its own.
    """
    monkeypatch.setattr(ReloadService, "share", 1.0)


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """
    Run a test with the mark L{forked <tests.support.kernel.forked>} in a child.
    """
    if pyfuncitem.get_closest_marker("forked") is None:
        return None
    names = signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    inChild(lambda: pyfuncitem.obj(**arguments))
    return True


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run a test with the fixture C{world} in each world that it supports.
    """
    if "world" in metafunc.fixturenames:
        kernelOnly = metafunc.definition.get_closest_marker("kernelOnly")
        metafunc.parametrize(
            "world", ["kernel"] if kernelOnly else WORLDS, indirect=True
        )


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[None]:
    """
    Use real signals, or those of L{MemorySignals}.
    """
    with using(WORLDS[request.param]()):
        yield


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A file with a key and its certificate for C{localhost}.
    """
    reason = "needs cryptography, as TLS in Twisted does"
    pytest.importorskip("OpenSSL", reason=reason)
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    writeCertificate(path)
    return path
