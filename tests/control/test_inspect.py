"""
C{python -m txsignalfd} and L{txsignalfd._proc.report}.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGRTMAX, SIGRTMIN, SIGTERM
from typing import Any

import pytest

import txsignalfd
from tests.support.forkserver import TWISTD
from tests.support.processes import COMMAND, runPython
from tests.support.reactors import DEADLINE
from tests.support.statuses import C_LIBRARYS, THREAD, twoThreads
from tests.support.worlds import BACKEND
from txsignalfd._control.inspect import main
from txsignalfd._native.names import signalName
from txsignalfd._proc.report import namesOf, toText
from txsignalfd._proc.status import ProcessSignals


def run(
    *arguments: str, options: Iterable[str] = (), start: Callable[[], object] = int
) -> subprocess.CompletedProcess[str]:
    """
    Run the command.

    @param options: The options of Python.
    @param start: Called in the process before the program starts.
    """
    return runPython(
        *options, "-m", "txsignalfd", *arguments, preexec_fn=start, restore_signals=True
    )


def rows(text: str) -> dict[str, set[str]]:
    """
    Parse a table: the names of each row by its label.
    """
    found: dict[str, set[str]] = {}
    label = ""
    for line in text.splitlines():
        assert len(line) < 80
        if match := re.match(r"  (\S.{21}|\s{22}) (\S.*)", line):
            label = match[1].strip() or label
            found.setdefault(label, set()).update(match[2].split())
    return found


def signalsOf(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Return the signals of the JSON by name.
    """
    return {item["name"]: item for item in data["signals"]}


# --- a process


def test_aProcessAndItsThreadsAsText(tmp_path: Path) -> None:
    """
    Chosen actions come first, then the defaults, then differences of threads.
    """
    with twoThreads(tmp_path) as (running, tid):
        result = run(str(running.pid))
    assert (result.stderr, result.returncode) == ("", 0)
    process, threads = result.stdout.split(f"\nthread {running.pid} (main one)\n")
    # The heading may wrap.
    heading, table = process.split("\n  pending", 1)
    assert re.fullmatch(
        rf"pid {running.pid} \(main one\): (sleeping|running|disk sleep), 2 threads,"
        rf" \d+ of \d+ signals queued for uid {os.getuid()}",
        re.sub(r"\s+", " ", heading),
    )
    data = rows("  pending" + table)
    # The C library has its own handlers.
    for each in ("caught", "ignored"):
        data[each] -= set(map(str, C_LIBRARYS))
    assert list(data) == [
        "pending",
        "blocked, then dies",
        "caught",
        "ignored",
        "dies",
        "dies with a core dump",
        "stops",
        "continues",
        "ignored by default",
    ]
    assert data["pending"] == {"SIGTERM", "SIGRTMIN+1"}
    assert data["blocked, then dies"] == {"SIGUSR2", "SIGTERM", "SIGRTMIN+1"}
    assert data["caught"] == {"SIGINT", "SIGUSR1"}
    assert data["ignored"] == {"SIGHUP", "SIGPIPE", "SIGXFSZ"}
    assert {"SIGKILL", "SIGALRM", "SIGRTMIN", "SIGRTMIN+2..SIGRTMAX"} <= data["dies"]
    assert "SIGQUIT" in data["dies with a core dump"]
    assert data["stops"] == {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
    assert data["continues"] == {"SIGCONT"}
    assert data["ignored by default"] == {"SIGCHLD", "SIGURG", "SIGWINCH"}
    assert threads == (
        "  blocked                SIGUSR2 SIGTERM SIGRTMIN+1\n"
        "  pending for it alone   SIGUSR2\n"
        f"thread {tid} (worker)\n"
        "  blocked                SIGUSR2 SIGTERM SIGWINCH SIGRTMIN+1\n"
        "  pending for it alone   SIGWINCH\n"
    )


def test_aProcessAndItsThreadsAsJSON(tmp_path: Path) -> None:
    """
    One object on one line.
    """
    with twoThreads(tmp_path) as (running, tid):
        result = run("--json", str(running.pid))
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.count("\n") == 1
    data = json.loads(result.stdout)
    signals = signalsOf(data)
    assert list(signals) == [signalName(signo) for signo in range(1, 65)]
    assert signals["SIGTERM"] == {
        "signal": 15,
        "name": "SIGTERM",
        "disposition": "default",
        "effect": "dies",
        "blocked": True,
        "pending": True,
    }
    assert signals["SIGUSR1"]["effect"] == signals["SIGUSR1"]["disposition"] == "caught"
    assert not signals["SIGWINCH"]["blocked"]
    for thread in data["threads"]:
        # The thread may be about to sleep.
        assert thread.pop("state") in ("running", "sleeping")
    assert data["threads"] == [
        {
            "tid": running.pid,
            "name": "main one",
            "blocked": ["SIGUSR2", "SIGTERM", "SIGRTMIN+1"],
            "pending": ["SIGUSR2"],
        },
        {
            "tid": tid,
            "name": "worker",
            "blocked": ["SIGUSR2", "SIGTERM", "SIGWINCH", "SIGRTMIN+1"],
            "pending": ["SIGWINCH"],
        },
    ]
    assert (data["pid"], data["name"], data["uid"]) == (
        running.pid,
        "main one",
        os.getuid(),
    )
    assert data["queued"] > 0  # by all processes of the user
    assert data["queueLimit"] == resource.getrlimit(resource.RLIMIT_SIGPENDING)[0]
    assert not data["init"]
    assert not data["kernelThread"]


def test_equalThreadsAreGrouped() -> None:
    """
    Threads that equal the process are not listed.
    """
    alike = THREAD._replace(pending=frozenset(), shared=frozenset())
    threads = [alike._replace(tid=tid, name="worker") for tid in range(4711, 4714)]
    assert "3 threads" in toText(ProcessSignals(tuple(threads)))
    assert "\nthread" not in toText(ProcessSignals(tuple(threads)))
    other = alike._replace(tid=4714, name="a-name-with", blocked=frozenset())
    text = toText(ProcessSignals((*threads, other, other._replace(tid=4715, name="b"))))
    assert text.endswith(
        "\nthreads 4711 4712 4713 (worker)\n"
        "  blocked                SIGHUP SIGINT SIGUSR1 SIGRTMIN\n"
        "threads 4714 (a-name-with), 4715 (b)\n"
        "  blocked                none"
    )


def test_anEndedThreadOrProcessIsMarked() -> None:
    ended = THREAD._replace(tid=4711, state="zombie", name="first")
    text = toText(ProcessSignals((ended, THREAD)))
    assert text.startswith("pid 4711 (first): sleeping, 2 threads, 3 of")
    assert "\nthread 4711 (first): ended\nthread 4712 (" in text
    assert toText(ProcessSignals((ended,))) == (
        "pid 4711 (first): zombie, 3 of 63304 signals queued for uid 1000\n"
        "  Signals have no effect on it any more."
    )


def test_initAndKernelThreadsAreMarked() -> None:
    special = THREAD._replace(isInit=True, isKernelThread=True, queueLimit=None)
    heading = toText(ProcessSignals((special,))).split("\n  ", 2)
    assert " ".join("".join(heading[:2]).split()) == (
        'pid 4711 ("ex ample:\\n"): sleeping, init of its pid namespace, a kernel'
        " thread, 3 signals queued for uid 1000"
    )


@pytest.mark.parametrize(
    ("signals", "names"),
    [
        ([], "none"),
        ([SIGTERM, SIGHUP], "SIGHUP SIGTERM"),
        ([SIGRTMIN, SIGRTMIN + 1], "SIGRTMIN SIGRTMIN+1"),
        ([SIGRTMIN + 1, SIGRTMIN + 2, SIGRTMIN + 3], "SIGRTMIN+1..SIGRTMIN+3"),
        (range(SIGRTMIN - 1, SIGRTMAX + 1), f"{SIGRTMIN - 1} SIGRTMIN..SIGRTMAX"),
        ([SIGRTMIN, *range(SIGRTMIN + 2, SIGRTMAX)], None),
    ],
)
def test_longRunsOfRealtimeSignalsAreNamedByTheirEnds(
    signals: list[int], names: str | None
) -> None:
    last = signalName(SIGRTMAX - 1)
    assert namesOf(signals) == (names or f"SIGRTMIN SIGRTMIN+2..{last}")


# --- the inherited state


def ignoreAndBlock() -> None:
    """
    Change the state that the program inherits.
    """
    signal.signal(SIGHUP, signal.SIG_IGN)
    signal.signal(SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {SIGTERM, SIGRTMIN})
    os.kill(os.getpid(), SIGTERM)


def test_withoutAPidItShowsTheInheritedState() -> None:
    """
    Without the changes that Python makes.
    """
    result = run(start=ignoreAndBlock)
    assert (result.stderr, result.returncode) == ("", 0)
    assert re.match(
        rf"a program started here: \d+ of \d+ signals queued for uid {os.getuid()}\n",
        result.stdout,
    )
    table, why = result.stdout.split("\nunknown: ")
    data = rows(table)
    assert data["pending"] == {"SIGTERM"}
    assert data["blocked, then dies"] == {"SIGTERM", "SIGRTMIN"}
    # posix_spawn(3) ignores the one of the C library for the child.
    assert data["ignored"] - set(map(str, C_LIBRARYS)) == {"SIGHUP", "SIGINT"}
    assert data["unknown"] == {"SIGPIPE", "SIGXFSZ"}
    assert "caught" not in data
    assert " ".join(why.split()).startswith("Python or one of its modules set")


@pytest.mark.parametrize("options", [(), ("-X", "faulthandler")])
@pytest.mark.parametrize("ignored", [False, True])
def test_theHandlersOfPythonAreNotShown(ignored: bool, options: list[str]) -> None:
    """
    Python handles SIGINT, and with C{-X faulthandler} SIGSEGV and others.
    """

    def ignore() -> None:
        for signo in (SIGINT, signal.SIGSEGV):
            signal.signal(signo, signal.SIG_IGN if ignored else signal.SIG_DFL)

    data = json.loads(run("--json", options=options, start=ignore).stdout)
    unknown = {
        item["name"] for item in data["signals"] if item["disposition"] == "unknown"
    }
    assert unknown == {"SIGPIPE", "SIGXFSZ"}
    for name in ("SIGINT", "SIGSEGV"):
        disposition = signalsOf(data)[name]["disposition"]
        assert disposition == ("ignored" if ignored else "default")


def test_itShowsTheDefaultBackend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().stdout.endswith(f"\ndefault backend: {BACKEND}\n")
    monkeypatch.setenv("TXSIGNALFD_BACKEND", "handler")
    assert json.loads(run("--json").stdout)["backend"] == "handler"
    monkeypatch.setenv("TXSIGNALFD_BACKEND", "pigeon")
    refused = run()
    assert (refused.stdout, refused.returncode) == ("", 1)
    assert "TXSIGNALFD_BACKEND 'pigeon' is unknown" in refused.stderr


@pytest.mark.parametrize(
    "command", [COMMAND, [TWISTD, "signalfd"]], ids=["python -m", "twistd"]
)
def test_versionIsThatOfThePackage(command: list[str]) -> None:
    """
    C{--version} prints C{__version__}, which is also that of the distribution.
    """
    printed = subprocess.check_output([*command, "--version"], text=True)
    assert printed == f"txsignalfd {txsignalfd.__version__}\n"
    assert txsignalfd.__version__ == metadata.version("txsignalfd")


# --- errors


def test_noSuchProcess(capsys: pytest.CaptureFixture[str]) -> None:
    """
    One line to stderr, and status 1.
    """
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert main([str(child.pid)]) == 1
    assert capsys.readouterr() == (
        "",
        f"python -m txsignalfd: there is no process {child.pid}\n",
    )


@pytest.mark.parametrize("arguments", [["0"], ["-1"], ["x"], ["1", "2"], ["--xml"]])
def test_wrongArgumentsAreAUsageError(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """
    It prints the usage, and exits with status 2.
    """
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(
        "usage: python -m txsignalfd [-h] [--json] [--version] [PID]\n"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_aClosedPipeEndsItSilently(unbuffered: str) -> None:
    """
    As it ends cat(1), by SIGPIPE.
    """
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            COMMAND,
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=DEADLINE,
            check=False,
        )
    finally:
        os.close(writer)
    assert (result.stderr, result.returncode) == (b"", -SIGPIPE)


WITHOUT_TWISTED = """
import importlib.util, sys, types
package = types.ModuleType("txsignalfd")
package.__path__ = importlib.util.find_spec("txsignalfd").submodule_search_locations
for name in [name for name in sys.modules if name.startswith(("twisted", "txsig"))]:
    del sys.modules[name]
sys.modules["txsignalfd"] = package
import txsignalfd._control.inspect
print(any(name.split(".")[0] == "twisted" for name in sys.modules))
"""


def test_itDoesNotImportTwisted() -> None:
    """
    So it starts quickly.
    """
    child = runPython("-c", WITHOUT_TWISTED)
    assert (child.stdout, child.stderr) == ("False\n", "")


def test_aProcessMayInspectItself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(os.getpid())]) == 0
    assert "dies" in rows(capsys.readouterr().out)
    assert main(["--json", str(os.getpid())]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["pid"] == os.getpid()
    assert signalsOf(data)[signalName(SIGKILL)]["effect"] == "dies"
    assert main([]) == 0
    assert "SIGPIPE" in rows(capsys.readouterr().out)["unknown"]
