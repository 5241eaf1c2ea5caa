"""
Measure how long a daemon takes from its start to its first answer, and its memory.

C{twistd signalfd web} and C{twistd web} take turns.  The CPU time is that of the
daemon until then, which other programs change less than the time on a clock.
The modules have their bytecode, as after an installation by pip.

C{txsignalfd --help} is compared with C{python -c pass}.
"""

from __future__ import annotations

import compileall
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import txsignalfd
from benchmarks.measuring import Comparison, Row
from tests.support.clients import canConnect, fetch, tcp
from tests.support.freeports import freePort

OURS, TWISTEDS = "twistd signalfd web", "twistd web"
COMMANDS = {OURS: ["signalfd", "web"], TWISTEDS: ["web"]}

HELP, PASS = "txsignalfd --help", "python -c pass"

SCRIPTS = Path(sysconfig.get_path("scripts"))
PROGRAMS = {
    HELP: [str(SCRIPTS / "txsignalfd"), "--help"],
    PASS: [sys.executable, "-c", "pass"],
}

#: Seconds between two attempts to connect.
PAUSE = 0.0005


def firstAnswer(name: str, directory: str) -> tuple[float, float, float]:
    """
    Start a daemon, and wait for its answer.

    @return: The milliseconds until then, those of the daemon's CPU time, and its
        resident memory in MiB.
    """
    port = freePort()
    command = [str(SCRIPTS / "twistd"), "-n", "--pidfile=", *COMMANDS[name]]
    where = f"--listen=tcp:{port}:interface=127.0.0.1"
    before = time.perf_counter()
    with subprocess.Popen(
        [*command, where, f"--path={directory}"],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as daemon:
        try:
            while not canConnect(tcp(port)):
                # No event says that another program listens.
                time.sleep(PAUSE)
            fetch(tcp(port))
            taken = time.perf_counter() - before
            with open(f"/proc/{daemon.pid}/schedstat", encoding="ascii") as file:
                cpu = int(file.read().split()[0]) / 1e6
            status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            memory = next(line.split()[1] for line in status if "VmRSS" in line)
        finally:
            daemon.kill()
    return taken * 1000, cpu, int(memory) / 1024


def run(name: str) -> list[float]:
    """
    Run a program, and return the milliseconds of its CPU time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(PROGRAMS[name], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return [(user + system) * 1000]


def measure(quick: bool) -> list[Comparison]:
    """
    Start each in turn.
    """
    for directory in txsignalfd.__path__:
        compileall.compile_dir(directory, quiet=1)
    measured = [
        Comparison("first answer", "ms"),
        Comparison("first answer, CPU time", "ms"),
        Comparison("first answer, memory", "MiB"),
    ]
    with tempfile.TemporaryDirectory() as served:
        Path(served, "index.html").write_text("Hello")
        for _ in range(1 if quick else 40):
            names = [*COMMANDS][:: 1 if len(measured[0].turns) % 2 else -1]
            taken = {name: firstAnswer(name, served) for name in names}
            for number, comparison in enumerate(measured):
                comparison.turns.append(
                    {name: [taken[name][number]] for name in COMMANDS}
                )
    programs = Comparison("a program, CPU time", "ms")
    for _ in range(2 if quick else 60):
        programs.turn({name: partial(run, name) for name in PROGRAMS})
    return [*measured, programs]


def rows(*comparisons: Comparison) -> Iterator[Row]:
    """
    Yield the ratios to Twisted's, and to Python's.
    """
    *measured, programs = comparisons
    for comparison, most in zip(measured, (1.08, None, 1.03), strict=True):
        ratio = comparison.ratio(OURS, TWISTEDS)
        yield Row(f"{comparison.name}: {OURS}, to {TWISTEDS}", ratio, most)
    yield Row(f"{programs.name}: {HELP}, to {PASS}", programs.ratio(HELP, PASS), 1.5)
