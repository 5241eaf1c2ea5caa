"""
The README's examples work when they are pasted.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from tests.daemons import TWISTD, program, python, waitFor

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
        waitFor(lambda: "SigBlk:\t0000000000004003" in status.read_text(), "it starts")
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


def test_theCommandsAreThoseOfThisVersion() -> None:
    """
    The one that starts it, and the one that tests it, as CI runs them.
    """
    text = README.read_text()
    assert "pip install -e '.[test]' --config-settings editable_mode=compat" in text
    assert "\n    pytest\n" in text
