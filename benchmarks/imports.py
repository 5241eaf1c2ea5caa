"""
Measure what an import adds to that of Twisted's reactor, in time and memory.

Every module has its bytecode, as after an installation by pip.  An editable install
has none at first, and with PYTHONDONTWRITEBYTECODE never, so that every import
compiles.
"""

from __future__ import annotations

import compileall
import json
import sys
from collections.abc import Iterator
from functools import partial

import txsignalfd
from benchmarks.measuring import Comparison, Row, output

REACTOR = "from twisted.internet import reactor"
IMPORTS = {
    "the reactor alone": REACTOR,
    "import txsignalfd": f"{REACTOR}; import txsignalfd",
    "import dispatcherFor": f"{REACTOR}; from txsignalfd import dispatcherFor",
}

PROGRAM = """
import time
before = time.perf_counter()
{imports}
after = time.perf_counter()
import json
with open("/proc/self/status") as status:
    memory = next(line.split()[1] for line in status if line.startswith("VmRSS"))
print(json.dumps([(after - before) * 1000, int(memory) / 1024]))
"""


def measure(quick: bool) -> list[Comparison]:
    """
    Import each in a new interpreter.
    """
    for directory in txsignalfd.__path__:
        compileall.compile_dir(directory, quiet=1)
    time, memory = (
        Comparison("imports, time", "ms"),
        Comparison("imports, memory", "MiB"),
    )
    for _ in range(2 if quick else 40):
        measured: dict[str, list[float]] = {}

        def once(name: str, measured: dict[str, list[float]] = measured) -> list[float]:
            program = PROGRAM.format(imports=IMPORTS[name])
            measured[name] = json.loads(output([sys.executable, "-c", program]))
            return measured[name][:1]

        time.turn({name: partial(once, name) for name in IMPORTS})
        memory.turns.append({name: measured[name][1:] for name in IMPORTS})
    return [time, memory]


def rows(*comparisons: Comparison) -> Iterator[Row]:
    """
    Yield the ratios to the reactor alone.
    """
    for comparison in comparisons:
        for name, most in (("import txsignalfd", 1.1), ("import dispatcherFor", None)):
            ratio = comparison.ratio(name, "the reactor alone")
            yield Row(f"{comparison.name}: {name}, to the reactor alone", ratio, most)
