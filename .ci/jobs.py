"""
Run every session of noxfile.py, a few at a time, each with a deadline.

Everything is made in a temporary directory, except what the README's install
command leaves in the checkout.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain

#: How many sessions with the tag C{suite} run at a time: each has several processes.
#: One other session runs beside them, as most of those have one process, which waits.
#: When all the others have ended, one more with the tag runs in place of them.
SUITES_AT_ONCE = 2
#: The most seconds for one session.
DEADLINE = 1500
#: How many last lines of a failed session are printed again in the end.
REPEATED = 40
#: Variables that change what Python imports, or how fast it starts.
UNWANTED = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
)

begin = time.monotonic()
running: set[int] = set()


def kill(group: int) -> None:
    """
    Kill a session and the programs that it has started.
    """
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def run(nox: list[str], session: str) -> str | None:
    """
    Run a session, print its output when it has ended, and return the end of the
    output if it failed.
    """
    with subprocess.Popen(
        [*nox, "-s", session],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        running.add(process.pid)
        try:
            output, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            kill(process.pid)
            output, _ = process.communicate()
            output += f"killed after {DEADLINE} s\n"
        running.remove(process.pid)
    seconds = time.monotonic() - begin
    print(f"\n=== {session} (ended after {seconds:.0f} s)\n{output}", flush=True)
    if process.returncode == 0:
        return None
    last = "\n".join(output.splitlines()[-REPEATED:])
    return f"=== {session} failed; its output ended with\n{last}\n"


def runAll(nox: list[str], suites: list[str], others: list[str]) -> dict[str, str]:
    """
    Run sessions, and return the ends of the outputs of those that failed.
    """
    queues = iter(suites), iter(others)
    failed: dict[str, str] = {}

    def work(lane: Iterable[Iterator[str]]) -> None:
        for name in chain.from_iterable(lane):
            if end := run(nox, name):
                failed[name] = end

    lanes = [*[queues] * SUITES_AT_ONCE, queues[::-1]]
    with ThreadPoolExecutor(len(lanes)) as pool:
        try:
            list(pool.map(work, lanes))
        except SystemExit:
            # Leave nothing for the other threads.
            list(chain(*queues))
            for group in list(running):
                kill(group)
            raise
    return failed


def reasonOf(output: str) -> str:
    """
    Return why a session failed: the first test that failed, and the last line.
    """
    ends = re.compile("nox > (Command .*|Session .* failed\\.)|\\s*")
    lines = [line for line in output.splitlines() if not ends.fullmatch(line)]
    tests = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return "; ".join([*tests[:1], lines[-1]])


def main(directory: str) -> str | None:
    """
    Run all sessions in environments below a directory; return what failed.
    """
    venv.create(f"{directory}/venv", with_pip=True)
    python = [f"{directory}/venv/bin/python", "-m"]
    subprocess.run([*python, "pip", "install", "--quiet", "nox"], check=True)
    nox = [*python, "nox", "--envdir", f"{directory}/nox"]
    listed = subprocess.run([*nox, "-l", "--json"], stdout=subprocess.PIPE, check=True)
    build, *sessions = json.loads(listed.stdout)
    if run(nox, build["session"]):
        return "failed: build"
    suites = [each["session"] for each in sessions if "suite" in each["tags"]]
    others = [each["session"] for each in sessions if "suite" not in each["tags"]]
    failed = runAll(nox, suites, others)
    print(*failed.values(), sep="\n", flush=True)
    why = [f"failed: {name}: {reasonOf(end)}" for name, end in failed.items()]
    return "\n".join(why) or None


if __name__ == "__main__":
    for name in UNWANTED:
        os.environ.pop(name, None)
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    # A session imports a small part of what it installs: compile only that.
    os.environ["PIP_COMPILE"] = "0"
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as made:
        # Some tests become another user, who must be able to reach their files.
        os.chmod(made, 0o755)  # noqa: S103
        sys.exit(main(made))
