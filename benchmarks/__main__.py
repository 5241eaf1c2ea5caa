"""
Run all benchmarks: C{python -m benchmarks}.  README.rst describes them.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser
from itertools import chain
from pathlib import Path

from benchmarks import (
    burst,
    children,
    fairness,
    idle,
    imports,
    losses,
    plot,
    report,
    roundtrip,
    spawn,
    start,
)
from benchmarks.measuring import Comparison, machine

#: Each has C{measure}, and C{rows} of the table from what it has measured.
MEASURES = {
    "roundtrip": roundtrip,
    "burst": burst,
    "losses": losses,
    "children": children,
    "spawn": spawn,
    "imports": imports,
    "start": start,
    "fairness": fairness,
    "idle": idle,
}


def main() -> None:
    """
    Measure, print the table, and write the files.
    """
    parser = ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="only show that it works")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks"),
        help="the directory for table.rst, results.json and numbers.svg (%(default)s)",
    )
    options = parser.parse_args()
    where = machine()
    measured: dict[str, list[Comparison]] = {}
    for name in options.only:
        before = time.monotonic()
        measured[name] = MEASURES[name].measure(options.quick)
        print(f"{name}: {time.monotonic() - before:.0f} s", flush=True)
    comparisons = list(chain.from_iterable(measured.values()))
    table = report.table(
        chain.from_iterable(MEASURES[name].rows(*measured[name]) for name in measured)
    )
    print(*(f"{key}: {value}" for key, value in where.items()), sep=", ")
    print(report.times(comparisons))
    print(table)
    os.makedirs(options.output, exist_ok=True)
    (options.output / "table.rst").write_text(table + "\n")
    report.save(options.output / "results.json", where, comparisons)
    if {"roundtrip", "burst"}.issubset(measured):
        picture = options.output / "numbers.svg"
        plot.draw(measured["roundtrip"][0], measured["burst"][0], picture)


if __name__ == "__main__":
    main()
