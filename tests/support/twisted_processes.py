"""
Twisted's own tests of processes, with L{txsignalfd.ReactorSignals} in the place
of Twisted's handling of signals in every reactor that they build.

C{python -m tests.support.twisted_processes} runs them with ours, and those that failed
or were skipped once more with Twisted as it is, each in a process of its own.  It
fails if a test fails with ours that does not fail without.
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
    What a run has given: how many tests were run, which were skipped and which
    failed, how often our handling was installed, and what trial has printed.
    """

    run: int
    skipped: list[str]
    failed: list[str]
    installed: int
    report: str


@contextmanager
def oursInPlace(installed: Callable[[], None]) -> Iterator[None]:
    """
    Every reactor that is run with C{installSignalHandlers=True} has ours.
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
    Run tests in this process, which they may leave in any state.
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
    Run tests in a process and a directory of its own.
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
    Run tests with ours, and those that fail or are skipped without, too.

    @return: What is wrong with ours, or C{None}.
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
        return "\n".join([ours.report, "these fail only with ours:", *new])
    if new := sorted({*ours.skipped} - {*twisteds.skipped}):
        return "\n".join(["these are skipped only with ours:", *new])
    if not ours.installed or twisteds.installed:
        return "it was not ours that was tested"
    return None


def main(arguments: list[str]) -> None:
    """
    Run both ways, or be the process for one of them.
    """
    if not arguments:
        sys.exit(compare(SUITES))
    how, outcome, *suites = arguments
    Path(outcome).write_text(json.dumps(runHere(suites, how == "ours")))


if __name__ == "__main__":
    main(sys.argv[1:])
