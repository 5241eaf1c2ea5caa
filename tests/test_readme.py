"""
The README's examples work when they are pasted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from tests.daemons import TWISTD, program, python, waitFor
from tests.reactors import DEADLINE

README = Path(__file__).parent.parent / "README.rst"

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="the tests run without a checkout, and so its README"
)


def example(text: str) -> str:
    """
    The Python example in which some text stands.
    """
    block = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)
    blocks = block.findall(README.read_text())
    (found,) = (textwrap.dedent(block) for block in blocks if text in block)
    return found


def test_theReloadExample(tmp_path: Path) -> None:
    """
    It tells who asked, and reads the file anew each time.
    """
    source = "import warnings\nwarnings.simplefilter('ignore')\n"
    source += "from twisted.internet import reactor\n"
    source += "reactor.callWhenRunning(print, 'ready', flush=True)\n"
    with python(tmp_path, source + example("deferToThread")) as running:
        running.waitForOutput("ready")
        for value in (1, 2):
            (tmp_path / "settings.json").write_text(f'{{"answer": {value}}}')
            running.kill(SIGHUP)
            running.waitForOutput("SIGHUP from pid")
            running.waitForOutput(f"{{'answer': {value}}}\n")
        running.kill(SIGTERM)
        assert running.wait() == 0


def test_theApplicationExample(tmp_path: Path) -> None:
    """
    As a file for C{twistd -y}.
    """
    (tmp_path / "example.tac").write_text(example("setServiceParent"))
    with program(tmp_path, TWISTD, "-n", "-y", "example.tac") as twistd:
        # It is held from the moment that its service has started.
        status = Path(f"/proc/{twistd.pid}/status")
        waitFor(lambda: "SigBlk:\t0000000000014003" in status.read_text(), "it starts")
        twistd.kill(SIGHUP)
        twistd.waitForOutput("SIGHUP from pid")
        twistd.kill(SIGTERM)
        assert twistd.wait() == -SIGTERM


def test_theExampleOfWaiting(tmp_path: Path) -> None:
    """
    For one, and for more.
    """
    with python(tmp_path, example("async for")) as running:
        status = Path(f"/proc/{running.pid}/status")
        waitFor(lambda: "SigBlk:\t0000000000000a00" in status.read_text(), "it waits")
        running.kill(SIGUSR2)
        running.waitForOutput("the first: SIGUSR2\nmore\n")
        running.kill(SIGUSR1)
        assert running.wait() == 0
        assert re.search(r"more\nSIGUSR1 \d+\n$", running.output())


def test_theExampleOfHolding(tmp_path: Path) -> None:
    """
    The handler runs after the critical section.
    """
    with python(tmp_path, example("signals.hold")) as running:
        assert running.wait() == 0
        assert running.output() == "not yet\nhandled\ndone\n"


#: A program in the state that the README shows.
SHOWN = """
import os, threading
from signal import *

def name(text):
    open(f"/proc/self/task/{threading.get_native_id()}/comm", "w").write(text)

def work():
    name("worker")
    pthread_sigmask(SIG_BLOCK, {SIGUSR1})
    pthread_kill(threading.get_ident(), SIGUSR1)
    print("ready", threading.get_native_id(), flush=True)
    threading.Event().wait()

name("twistd")
signal(SIGHUP, print)
signal(SIGTERM, print)
pthread_sigmask(SIG_BLOCK, {SIGHUP})
os.kill(os.getpid(), SIGHUP)
threading.Thread(target=work).start()
"""


def test_whatAProcessDoesIsToldAsShown(tmp_path: Path) -> None:
    """
    To the letter, but for numbers, and for what the C library has taken.
    """
    shown = re.search(
        r"^    \$ python -m txsignalfd 4711\n((?:    .*\n)+)",
        README.read_text(),
        re.MULTILINE,
    )
    assert shown
    with python(tmp_path, SHOWN) as running:
        running.waitForOutput("ready")
        pids = {str(running.pid): "4711", running.output().split()[1]: "4712"}
        status = Path(f"/proc/{running.pid}/status")
        waitFor(lambda: "S (sleeping)" in status.read_text(), "it sleeps")
        child = subprocess.run(
            [sys.executable, "-m", "txsignalfd", str(running.pid)],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )

    def normal(text: str) -> list[str]:
        text = re.sub(r"\d+ of \d+ signals queued for uid \d+", "queue", text)
        # Python has a name for it since 3.11.
        text = text.replace("SIGSTKFLT", "16")
        # How lines are broken hangs on these: compare words.
        words = re.sub(r"\b(32|33)\b", "", text).split()
        return [re.sub(r"\d+", lambda n: pids.get(n[0], n[0]), word) for word in words]

    assert normal(child.stdout) == normal(shown[1])


def test_theExampleOfChildren(tmp_path: Path) -> None:
    """
    The end is told, and the reactor stops.
    """
    with python(tmp_path, example("ReactorSignals")) as running:
        assert running.wait() == 0
        assert running.output() == "ended: 3\n"


def test_theCommandsAreThoseOfThisVersion() -> None:
    """
    The one that starts it, and the one that tests it, as CI runs them.
    """
    text = README.read_text()
    assert "pip install -e '.[test]' --config-settings editable_mode=compat" in text
    assert "\n    pytest\n" in text
