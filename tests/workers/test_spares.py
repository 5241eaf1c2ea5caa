"""
Processes that have imported Twisted, and wait to become workers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import chain, repeat
from math import inf
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR2
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock

import twisted
from tests.support.clients import fetch, tcp
from tests.support.daemons import childrenOf, program, reload, waitFor
from tests.support.deployed import application, deploy
from tests.support.freeports import freePort
from tests.support.inreactor import inReactor
from tests.support.observers import Logged
from tests.support.processes import ask, untilZombie
from tests.support.reactors import until
from txsignalfd._children.reaper import ChildReaper
from txsignalfd._dispatch.dispatcher import SignalDispatcher
from txsignalfd._proc.reason import RemoteError
from txsignalfd._workers import spare
from txsignalfd._workers import spares as module
from txsignalfd._workers.command import Command
from txsignalfd._workers.membership import Membership
from txsignalfd._workers.process import WorkerProcess
from txsignalfd._workers.sockets import Sockets
from txsignalfd._workers.spares import Spares

#: A program that says how it was started.  A module of Twisted was imported already,
#: unless the interpreter is a new one.
MAIN = """
import os, sys
wasImported = "twisted.extra" in sys.modules
import twisted.extra
from txsignalfd import workerNumber
print(sys.argv, sys.orig_argv[1:], sys.path[0], len(os.environ), __file__)
print([line for line in open("/proc/self/status") if line[:4] in ("SigB", "SigI")])
print(os.path.exists("go"), "twisted.internet.reactor" in sys.modules)
print("worker", workerNumber(), os.getpid(), wasImported, twisted.extra.value)
raise SystemExit(3)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    A directory with a program, and with a Twisted of its own.
    """
    (tmp_path / "main.py").write_text(MAIN)
    copy = tmp_path / "lib" / "twisted"
    copy.mkdir(parents=True)
    for name in os.listdir(twisted.__path__[0]):
        (copy / name).symlink_to(Path(twisted.__path__[0], name))
    (copy / "extra.py").write_text("value = 'old'\n")
    (copy / "impossible.py").write_text("import twisted.internet.reactor\n")
    (copy.parent / "sitecustomize.py").write_text("print('begins', flush=True)")
    (tmp_path / "here").symlink_to(".")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(copy.parent))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    # Longer than the clock of the file system may be late.
    monkeypatch.setattr(module, "_PAUSE", 0.05)
    monkeypatch.setattr(module, "_LONG_PAUSE", 0.1)
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    return tmp_path


def commandIn(place: Path) -> Command:
    """
    Return the command of the program.
    """
    words = [sys.executable, "main.py", "-x"]
    return Command(str(place / "here"), arguments=words)


@asynccontextmanager
async def keeping(place: Path, reactor: Any, number: int = 1) -> AsyncIterator[Spares]:
    """
    Keep one spare worker.
    """
    spares = Spares(1, commandIn(place), reactor)
    spares.workers = lambda: 2
    spares.areSettled = chain([False], repeat(True)).__next__
    spares.learn(["twisted.extra", "twisted.impossible", "json.tool", "twisted.none"])
    spares.fill()
    await untilWaiting(spares)
    yield spares
    spares.stop()
    await until(lambda: not childrenOf(os.getpid()))


async def untilWaiting(spares: Spares) -> None:
    await until(lambda: [each["state"] for each in spares.status()] == ["waits"])


async def ended(worker: WorkerProcess, logged: Logged) -> list[str]:
    """
    Return what the program in a worker has said.
    """
    with pytest.raises(RemoteError):
        await worker.started
    await worker.ended.wait()
    prefix = "worker 2: "
    lines = [text for text in logged.texts if text.startswith(prefix)]
    logged.clear()
    return [line.removeprefix(prefix) for line in lines]


async def begin(spares: Spares, reactor: Any, logged: Logged) -> list[str]:
    """
    Let a spare worker begin, and return what the program says.
    """
    worker = WorkerProcess(2, None, Sockets(reactor), reactor)
    found = spares.take(spares._command)
    assert found is not None
    found.begin(worker)
    return await ended(worker, logged)


@inReactor
async def test_aSpareWorkerBecomesAWorker(
    reactor: Any, dispatcher: SignalDispatcher, place: Path, logged: Logged
) -> None:
    """
    The program runs then, in the same process, and sees no other difference to a new
    one than modules that are loaded already.
    """
    ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        (line,) = spares.describe()
        assert line.startswith(f"spare worker (pid {status['pid']}) waits: ")
        (place / "go").touch()
        said = await begin(spares, reactor, logged)
    worker = WorkerProcess(2, None, Sockets(reactor), reactor)
    worker.start(commandIn(place))
    new = await ended(worker, logged)
    assert said[0] == "begins"
    assert said[:-1] == new[:-1]
    assert said[-2] == "True False"
    assert said[-1] == f"worker 2 {status['pid']} True old"
    assert new[-1] == f"worker 2 {worker.pid} False old"


def changeModule(place: Path) -> None:
    (place / "lib" / "twisted" / "extra.py").write_text("value = 'new'\n")


def moveProgram(place: Path) -> None:
    (place / "other").mkdir()
    (place / "main.py").rename(place / "other" / "main.py")
    (place / "main.py").symlink_to("other/main.py")


@pytest.mark.parametrize("change", [changeModule, moveProgram])
@inReactor
async def test_aChangedFileIsLoadedByANewInterpreter(
    reactor: Any,
    dispatcher: SignalDispatcher,
    place: Path,
    logged: Logged,
    change: Callable[[Path], None],
) -> None:
    """
    In the same process.
    """
    ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        change(place)
        said = await begin(spares, reactor, logged)
    assert said[-1].startswith(f"worker 2 {status['pid']} False ")


def test_aNewInterpreterGetsThePlaceOfTheOld(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    And the command of a worker that is no spare one.
    """

    def execv(*command: object) -> None:
        raise SystemExit(command)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "argv", ["-c", "main.py", "-x"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-I", "-c", "", *sys.argv[1:]])
    reading, writing = os.pipe()
    changed = SimpleNamespace(isCurrent=False)
    with pytest.raises(SystemExit) as executed:
        spare._become(Membership(0, 1, reading, [writing]), changed)  # type: ignore[arg-type]
    command = ["python", "-I", "main.py", "-x"]
    assert executed.value.args == ((sys.executable, command),)
    for descriptor in (reading, writing):
        assert os.get_inheritable(descriptor)
        os.close(descriptor)


def changeEnvironment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place))


def moveLink(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "here").unlink()
    (place / "here").symlink_to("lib")


def removeDirectory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "here").unlink()


@pytest.mark.parametrize("change", [changeEnvironment, moveLink, removeDirectory])
@inReactor
async def test_aSpareWorkerOfAnotherEnvironmentIsNotUsed(
    reactor: Any,
    dispatcher: SignalDispatcher,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    """
    It ends.
    """
    reaper = ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        change(place, monkeypatch)
        exited = reaper.whenExited(status["pid"])
        assert spares.take(spares._command) is None
        assert getattr(await exited, "exitCode", None) == 0


@inReactor
async def test_aSpareWorkerThatEndsIsForgotten(
    reactor: Any, dispatcher: SignalDispatcher, place: Path, logged: Logged
) -> None:
    """
    Another one is started, after a pause.
    """
    ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        os.kill(status["pid"], SIGTERM)
        await until(lambda: not spares.status())
        assert logged.contains(
            f"spare worker (pid {status['pid']}) was killed by SIGTERM; starting"
        )
        assert not logged.contains("begins")
        assert spares.take(spares._command) is None
        await untilWaiting(spares)
        assert spares.status()[0]["pid"] != status["pid"]


@pytest.mark.parametrize("isFull", [False, True])
@inReactor
async def test_aSpareWorkerThatHasJustEndedIsReplaced(
    reactor: Any,
    dispatcher: SignalDispatcher,
    place: Path,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
    isFull: bool,
) -> None:
    """
    The supervisor did not know of its end.  If the system has no process left, that is
    an end of the worker.
    """

    def start(*_: object) -> None:
        raise BlockingIOError("no process left")

    ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        os.kill(status["pid"], SIGKILL)
        untilZombie(status["pid"])
        if isFull:
            monkeypatch.setattr(WorkerProcess, "start", start)
        said = await begin(spares, reactor, logged)
    assert said == ["begins"] if isFull else said[-1].endswith("False old")


@inReactor
async def test_aSpareWorkerThatIsNotNeededEnds(
    reactor: Any, dispatcher: SignalDispatcher, place: Path
) -> None:
    """
    When there are fewer workers.
    """
    reaper = ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        exited = reaper.whenExited(status["pid"])
        spares.workers = lambda: 0
        spares.fill()
        assert getattr(await exited, "exitCode", None) == 0
        assert not spares.status()


@inReactor
async def test_signalsForTheSupervisorDoNotEndASpareWorker(
    reactor: Any, dispatcher: SignalDispatcher, place: Path, logged: Logged
) -> None:
    """
    A terminal and C{pkill} send them to all processes.
    """
    ChildReaper(dispatcher)
    async with keeping(place, reactor) as spares:
        (status,) = spares.status()
        for signo in (SIGHUP, SIGINT, SIGUSR2):
            os.kill(status["pid"], signo)
        said = await begin(spares, reactor, logged)
    assert said[-1] == f"worker 2 {status['pid']} True old"
    assert len(said) == 5


@inReactor
async def test_aSystemWithoutProcessesHasNoSpareWorkers(
    reactor: Any,
    dispatcher: SignalDispatcher,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    """
    They are started later.
    """

    def spawnProcess(*_: object, **__: object) -> None:
        raise BlockingIOError("no process left")

    ChildReaper(dispatcher)
    with monkeypatch.context() as without:
        without.setattr(reactor, "spawnProcess", spawnProcess)
        spares = Spares(1, commandIn(place), reactor)
        spares.workers = lambda: 1
        spares.areSettled = lambda: True
        spares.fill()
        await until(lambda: logged.contains("cannot be started: no process left"))
    await untilWaiting(spares)
    spares.stop()
    await until(lambda: not childrenOf(os.getpid()))


def test_aDaemonThatIsNeverReloadedHasNoSpareWorkers(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Unless a number is given.
    """
    started: list[bool] = []
    monkeypatch.setattr(Spares, "_start", lambda _: started.append(True))
    clock = Clock()
    spares = Spares(inf, commandIn(place), clock)
    spares.workers, spares.areSettled = lambda: 1, lambda: True
    spares.fill()
    clock.advance(1)
    assert not started
    spares.isWanted = True
    spares.fill()
    clock.advance(1)
    assert started
    spares.stop()


def test_onlyAPythonProgramHasSpareWorkers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    And no program that is its own interpreter.
    """
    monkeypatch.setattr(sys, "argv", ["program"])
    assert Command("/", "/bin/sh", ["sh", "--unknown"]).program() is None
    command = Command("/", sys.executable, ["python", "-I", "-m", "json.tool"])
    assert command.program() is not None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert command.program() is None


def test_aReloadUsesSpareWorkers(tmp_path: Path) -> None:
    """
    They run the new code, and the status shows those that wait.
    """
    port = freePort()
    deploy(tmp_path, port, b"old")
    options = ["--workers=1", "--spare-workers=1"]
    with program(tmp_path, *application(tmp_path, *options)) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        waitFor(lambda: len(childrenOf(daemon.pid)) == 2, "a spare worker")
        _, waiting = childrenOf(daemon.pid)
        _, out, _ = ask("status", str(daemon.pid))
        assert f"\n  spare, pid {waiting}: " in out
        deploy(tmp_path, port, b"new")
        reload(daemon)
        assert fetch(tcp(port)) == b"new"
        daemon.waitForOutput("generation 1 has ended")
        assert waiting in childrenOf(daemon.pid)
        assert daemon.stop() == -SIGTERM
    assert "Traceback" not in daemon.output()


def test_anUpgradeEndsSpareWorkers(tmp_path: Path) -> None:
    """
    The next program starts others, and reaps these.
    """
    deploy(tmp_path, freePort(), b"text")
    with program(tmp_path, *application(tmp_path, "--workers=1")) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} serves")
        reload(daemon)
        daemon.waitForOutput("generation 1 has ended")
        waitFor(lambda: len(childrenOf(daemon.pid)) == 2, "a spare worker")
        _, waiting = childrenOf(daemon.pid)
        assert ask("upgrade", str(daemon.pid))[0] == 0
        waitFor(lambda: waiting not in childrenOf(daemon.pid), "it is reaped")
        assert daemon.stop() == -SIGTERM
    assert "Traceback" not in daemon.output()
