"""
Run Twisted's own tests with this package's signal handling.

C{python -m tests.support.twisted_suite} runs all of them as C{trial
--reactor=signalfd twisted} does, and those that failed or were skipped again with
C{--reactor=epoll}.  Twisted's tests also make reactors of their own, with Twisted's
signal handling; so the tests of processes and of starts run once more with ours in
every reactor.  A test that fails or is skipped only with ours is an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from twisted.application.reactors import installReactor
from twisted.internet.posixbase import PosixReactorBase
from twisted.trial.reporter import TreeReporter
from twisted.trial.runner import DestructiveTestSuite, TestLoader, TrialRunner

from txsignalfd import ReactorSignals

#: The reactor of the run: Twisted's, ours, or ours in every reactor of the tests.
EPOLL, SIGNALFD, EVERYWHERE = "epoll", "signalfd", "everywhere"

#: The tests that run with ours in every reactor.
SUITES = [
    "twisted.test.test_process",
    "twisted.internet.test.test_process",
    "twisted.internet.test.test_core",
]

#: This test replaces C{signal.signal}, and expects that a reactor calls it when it
#: starts.  Ours does not: it blocks its signals and reads them from a descriptor.
IMPOSSIBLE = frozenset(
    f"twisted.internet.test.test_core.SystemEventTestsBuilder_{reactor}Tests"
    ".test_signalHandlersInstalledDuringStartup"
    for reactor in (
        "AsyncioSelectorReactor",
        "EPollReactor",
        "PollReactor",
        "SelectReactor",
        "ThreadedSelectReactor",
    )
)


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


def runHere(suites: list[str], how: str) -> Outcome:
    """
    Run tests in this process, whose state may be arbitrary afterwards.
    """
    count = 0
    install = ReactorSignals.install

    def counted(signals: ReactorSignals) -> None:
        nonlocal count
        install(signals)
        count += 1

    def factory(reactor: PosixReactorBase) -> ReactorSignals:
        return ReactorSignals(reactor)

    # This process runs nothing but these tests.
    ReactorSignals.install = counted  # type: ignore[method-assign,assignment]
    if how == EVERYWHERE:
        PosixReactorBase._signalsFactory = factory  # type: ignore[method-assign,assignment]
    _excludeHarm()
    installReactor(SIGNALFD if how == SIGNALFD else EPOLL)
    report = StringIO()
    runner = TrialRunner(TreeReporter, stream=report, workingDirectory="_trial_temp")
    loader = TestLoader()
    loader.suiteFactory = DestructiveTestSuite  # as trial's own
    result: Any = runner.run(loader.loadByNames(suites, recurse=True))
    failed = [test.id() for test, _ in (*result.errors, *result.failures)]
    failed += [test.id() for test, *_ in result.unexpectedSuccesses]
    skipped = [test.id() for test, _ in result.skips]
    return Outcome(result.testsRun, skipped, failed, count, report.getvalue())


def _excludeHarm() -> None:
    """
    Exclude a test that, run by root, leaves /dev/null unwritable for others.
    """
    from twisted.test.test_logfile import LogFileTests

    del LogFileTests.test_cantChangeFileMode


def runTests(suites: list[str], how: str) -> Outcome:
    """
    Run tests in a new process and a new directory.
    """
    with tempfile.TemporaryDirectory() as directory:
        outcome = Path(directory, "outcome")
        subprocess.run(
            [sys.executable, str(Path(__file__)), how, str(outcome), *suites],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        return Outcome(*json.loads(outcome.read_text()))


def compare(suites: list[str], how: str) -> str | None:
    """
    Run tests with ours, and those that failed or were skipped with Twisted's.

    @return: A message if ours is worse, or C{None}.
    """
    ours = runTests(suites, how)
    doubtful = sorted({*ours.failed, *ours.skipped} - IMPOSSIBLE)
    twisteds = runTests(doubtful, EPOLL)
    for name, outcome in ((how, ours), ("epoll, of these", twisteds)):
        sys.stdout.write(
            f"{name}: {outcome.run} tests, {len(outcome.skipped)} skipped,"
            f" {len(outcome.failed)} failed; ours was installed"
            f" {outcome.installed} times\n"
        )
    if new := sorted({*ours.failed} - {*twisteds.failed} - IMPOSSIBLE):
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
        sys.exit(compare(["twisted"], SIGNALFD) or compare(SUITES, EVERYWHERE))
    how, outcome, *suites = arguments
    Path(outcome).write_text(json.dumps(runHere(suites, how)))


if __name__ == "__main__":
    main(sys.argv[1:])
