"""
The benchmarks, and the pages that show their results.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip(
    "benchmarks", reason="the tests run without a checkout, and so its benchmarks"
)
from benchmarks import idle, losses, report, roundtrip
from benchmarks.measuring import Comparison, Row, machine
from tests.support.daemons import waitFor

CHECKOUT = Path(__file__).parent.parent


def rows(page: str) -> dict[str, list[str]]:
    """
    Return the cells of a table by the first of each row.
    """
    lines = (re.split("  +", line) for line in page.splitlines())
    return {what: cells for what, *cells in lines if cells}


def test_thePagesShowTheResults() -> None:
    """
    The benchmarks' page has the table, the README rounded numbers.
    """
    table = rows((CHECKOUT / "benchmarks" / "results" / "table.rst").read_text())
    page = {
        what: cells
        for what, cells in rows(
            (CHECKOUT / "benchmarks" / "README.rst").read_text()
        ).items()
        if cells[-1] in ("yes", "no")
    }
    assert page == {
        what: table[what] for what in table if table[what][-1] in ("yes", "no")
    }
    readme = " ".join((CHECKOUT / "README.rst").read_text().split())

    def median(what: str) -> float:
        return float(table[what][0].split()[0])

    for sentence, what in {
        "takes {:.2f} of the time that Twisted's": "round trip, on one CPU: to Twisted",
        "{:.2f} of asyncio's": "round trip, on one CPU: to asyncio",
        "{:.2f} of uvloop's": "round trip, on one CPU: to uvloop",
        "{:.2f} of trio's": "round trip, on one CPU: to trio",
        "costs {:.1f} times what a C program": "a burst, a plain handler: to C",
    }.items():
        assert sentence.format(median(what)) in readme
    more = median("round trip, on one CPU: to bare reader") - 1
    assert f"it adds {more:.0%}".replace("%", " percent") in readme


def test_theTableMatchesTheSamples() -> None:
    """
    The rows of the round trip follow from the samples, which are rounded.
    """
    results = CHECKOUT / "benchmarks" / "results"
    table = rows((results / "table.rst").read_text())
    trips = [
        Comparison(**each)
        for each in json.loads((results / "results.json").read_text())["comparisons"]
        if each["name"] in (roundtrip.PINNED, roundtrip.FREE)
    ]
    measured = {row.what: row for row in roundtrip.rows(*trips)}
    assert measured.keys() == {what for what in table if what.startswith("round trip")}
    for what, row in measured.items():
        assert float(table[what][0].split()[0]) == pytest.approx(
            row.measured[1], rel=0.006
        )
        assert table[what][1:2] == ([] if row.most is None else [f"{row.most:g}"])


def comparison() -> Comparison:
    """
    Return a comparison whose second turn was on a ten times slower machine.
    """
    turns = [
        {"ours": [1.0, 2.0, 3.0], "theirs": [4.0, 4.0, 4.0]},
        {"ours": [20.0], "theirs": [40.0]},
        {"ours": [2.0], "theirs": [4.0]},
    ]
    return Comparison("each", "µs", turns)


def test_ratiosAreOfTheSameTurn() -> None:
    """
    A machine that is slow for a while changes no ratio.
    """
    assert comparison().ratio("ours", "theirs") == (0.5, 0.5, 0.5)
    assert comparison().samples("ours") == [1.0, 2.0, 3.0, 20.0, 2.0]


def test_eachHasItsTurn() -> None:
    """
    Each contestant is measured once in a turn.
    """
    each = Comparison("each", "µs")
    order: list[str] = []

    def measure(name: str) -> list[float]:
        order.append(name)
        return [len(order)]

    for _ in range(3):
        each.turn({name: partial(measure, name) for name in "abc"})
    for first in (0, 3, 6):
        assert sorted(order[first : first + 3]) == ["a", "b", "c"]
    assert sorted(each.samples("a") + each.samples("b") + each.samples("c")) == [
        *range(1, 10)
    ]


def test_theTableShowsMissedTargets() -> None:
    """
    The median decides; a row without a target has no verdict.
    """
    printed = report.table(
        [
            Row("better", (0.4, 0.5, 0.7), 0.5),
            Row("worse", (0.4, 0.51, 0.52), 0.5),
            Row("as it is", (3, 3, 3)),
        ]
    )
    assert [re.split("  +", line) for line in printed.splitlines()[3:-1]] == [
        ["better", "0.5 (0.4-0.7)", "0.5", "yes"],
        ["worse", "0.51 (0.4-0.52)", "0.5", "no"],
        ["as it is", "3"],
    ]


def test_resultsNameNoUserOrHost(tmp_path: Path) -> None:
    """
    The file has every sample, and can be published.
    """
    path = tmp_path / "results.json"
    report.save(path, machine(), [comparison()])
    (saved,) = json.loads(path.read_text())["comparisons"]
    assert saved["turns"] == comparison().turns
    text = path.read_text()
    for secret in (platform.node(), os.getcwd(), os.path.expanduser("~")):
        assert secret == "/" or secret not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(
    "name",
    ["txsignalfd", "Twisted", "asyncio", "sigwaitinfo", "os.read", "bare reader", "C"],
)
def test_aProgramAnswersEachSignal(name: str) -> None:
    """
    The round trip is real: a byte arrives for each signal.
    """
    process = roundtrip.start(name, "echo")
    try:
        assert len(roundtrip.ping(process, 5)) == 5
    finally:
        roundtrip.stop(process)


def test_losesNone() -> None:
    """
    Every signal of a burst reaches its handler.
    """
    assert losses._lost("txsignalfd", 5000) == [0]


def wakeups(process: subprocess.Popen[bytes]) -> int | str:
    """
    Return the wakeups of a short time, or why they cannot be counted.
    """
    try:
        return idle._wakeups(process, 0.05)
    except RuntimeError as error:
        return str(error)


def test_aSleepingProcessIsIdle() -> None:
    """
    It has no wakeups until it wakes up.
    """
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        waitFor(lambda: wakeups(process) == 0, "it sleeps")
        before = idle._switches(process.pid)
        assert process.stdin is not None
        process.stdin.write(b" ")
        process.stdin.flush()
        waitFor(lambda: idle._switches(process.pid) > before, "it wakes up")


@pytest.mark.parametrize(
    ("source", "why"), [("while True: pass", "it has not slept"), ("", "it has ended")]
)
def test_aBusyProcessIsNotIdle(source: str, why: str) -> None:
    """
    Nor is a process that has ended, although neither wakes up.
    """
    with subprocess.Popen([sys.executable, "-c", source]) as process:
        try:
            waitFor(lambda: wakeups(process) == why, why)
        finally:
            process.kill()
