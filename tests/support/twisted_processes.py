"""
Run Twisted's own tests of processes with L{txsignalfd.ReactorSignals}.

C{python -m tests.support.twisted_processes} runs the tests in a process in which
every reactor uses ours instead of Twisted's signal handling, and those that
failed or were skipped again in a process with Twisted's.  It fails if a test
fails or is skipped only with ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.posixbase import PosixReactorBase
from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import TestLoader, TrialRunner

from txsignalfd import ReactorSignals

SUITES = ["twisted.test.test_process", "twisted.internet.test.test_process"]


class Outcome(NamedTuple):
    """
    The result of a run.
    """

    run: int
    skipped: list[str]
    failed: list[str]
    #: How often L{ReactorSignals} were installed.
    installed: int
    #: The output of trial.
    report: str


@contextmanager
def oursInPlace(installed: Callable[[], None]) -> Iterator[None]:
    """
    Have every reactor that installs signal handlers use ours.
    """

    class Counted(ReactorSignals):
        def install(self) -> None:
            super().install()
            installed()

    def factory(reactor: PosixReactorBase) -> Counted:
        return Counted(reactor)

    saved = PosixReactorBase._signalsFactory
    PosixReactorBase._signalsFactory = factory  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        PosixReactorBase._signalsFactory = saved  # type: ignore[method-assign]


def runHere(suites: list[str], ours: bool) -> Outcome:
    """
    Run tests in this process, whose state may be arbitrary afterwards.
    """
    count = 0

    def installed() -> None:
        nonlocal count
        count += 1

    report = StringIO()
    runner = TrialRunner(TreeReporter, stream=report, workingDirectory="_trial_temp")
    suite = TestLoader().loadByNames(suites)
    result: Any
    if ours:
        with oursInPlace(installed):
            result = runner.run(suite)
    else:
        result = runner.run(suite)
    failed = [test.id() for test, _ in (*result.errors, *result.failures)]
    failed += [test.id() for test, *_ in result.unexpectedSuccesses]
    skipped = [test.id() for test, _ in result.skips]
    return Outcome(result.testsRun, skipped, failed, count, report.getvalue())


def runTests(suites: list[str], ours: bool) -> Outcome:
    """
    Run tests in a new process and a new directory.
    """
    with tempfile.TemporaryDirectory() as directory:
        outcome = Path(directory, "outcome")
        arguments = ["ours" if ours else "twisted", str(outcome), *suites]
        subprocess.run(
            [sys.executable, str(Path(__file__)), *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        return Outcome(*json.loads(outcome.read_text()))


def compare(suites: list[str]) -> str | None:
    """
    Run tests with ours, and those that failed or were skipped with Twisted's.

    @return: A message if ours is worse, or C{None}.
    """
    ours = runTests(suites, True)
    doubtful = sorted({*ours.failed, *ours.skipped})
    twisteds = runTests(doubtful, False)
    for name, outcome in (("ours", ours), ("Twisted's, of these", twisteds)):
        sys.stdout.write(
            f"with {name}: {outcome.run} tests, {len(outcome.skipped)} skipped,"
            f" {len(outcome.failed)} failed; ours was installed"
            f" {outcome.installed} times\n"
        )
    if new := sorted({*ours.failed} - {*twisteds.failed}):
        return "\n".join([ours.report, "these tests fail only with ours:", *new])
    if new := sorted({*ours.skipped} - {*twisteds.skipped}):
        return "\n".join(["these tests are skipped only with ours:", *new])
    if not ours.installed or twisteds.installed:
        return "ours was not installed, or was installed where it should not be"
    return None


def main(arguments: list[str]) -> None:
    """
    Compare all suites, or be the process for one run.
    """
    if not arguments:
        sys.exit(compare(SUITES))
    how, outcome, *suites = arguments
    Path(outcome).write_text(json.dumps(runHere(suites, how == "ours")))


if __name__ == "__main__":
    main(sys.argv[1:])
