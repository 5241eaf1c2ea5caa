"""
The README's examples work when they are pasted.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from signal import SIGHUP, SIGTERM, SIGUSR1, SIGUSR2

import pytest

from tests.support.daemons import caught, program, python, waitFor
from tests.support.documents import blocks, pattern
from tests.support.forkserver import TWISTD
from tests.support.freeports import freePort
from tests.support.processes import runPython
from tests.support.statuses import WORK
from txsignalfd._dispatch.backends import VARIABLE

README = Path(__file__).parent.parent / "README.rst"

pytestmark = pytest.mark.skipif(
    not README.exists(), reason="the tests run without a checkout, and so its README"
)


def example(text: str) -> str:
    """
    Return the Python example that contains a text.
    """
    programs = [b.text for b in blocks(README.read_text()) if b.language == "python"]
    (found,) = (program for program in programs if text in program)
    return found


#: The commands of the README that run twistd.
COMMANDS = [
    "twistd -n signalfd",
    "twistd -n signalfd --format json 2>/dev/null",
    "twistd -n signalfd web --listen tcp:8080 --path .",
]


def shown(command: str) -> list[str]:
    """
    Return the output of a command and a SIGHUP, as the README shows it.
    """
    _, after = README.read_text().split(f"\n    $ {command}\n")
    until = re.split(r"\n\n\n|    \$ twistd", after)[0]
    printed = "\n".join(re.findall(r"^    (?!\$ )(.*)", until, re.MULTILINE))
    # The README wraps the line of JSON.
    return re.sub(",\n +", ", ", printed).splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_theDaemonLogsWhatIsShown(command: str, tmp_path: Path) -> None:
    """
    The log contains the shown lines, in that order.
    """
    free = command.replace("8080", str(freePort()))
    arguments = free.removesuffix(" 2>/dev/null").split()
    environment = ["env", "TZ=UTC", "PYTHONUNBUFFERED=1"]
    with program(tmp_path, *environment, TWISTD, *arguments[1:]) as daemon:
        daemon.waitForOutput(f"pid {daemon.pid} ")
        # The sender must live until the daemon has read its name.
        with subprocess.Popen(
            ["bash", "-c", f"kill -HUP {daemon.pid}; read"], stdin=subprocess.PIPE
        ):
            *before, last = shown(command)
            waitFor(lambda: pattern(last).search(daemon.output()), last)
        assert daemon.stop() == -SIGTERM
        printed = iter(daemon.stdout.read_text().splitlines())
    for line in [*before, last]:
        assert any(pattern(line).fullmatch(other) for other in printed), line


def test_noCommandOfTheReadmeIsLeftOut() -> None:
    """
    Every twistd command of the README is in COMMANDS.
    """
    typed = re.findall(r"^    \$ (twistd .*)$", README.read_text(), re.MULTILINE)
    assert typed == COMMANDS


def test_theReloadExample(tmp_path: Path) -> None:
    """
    Its commands make the settings that it reads, and it prints what is shown.
    """
    _, _, after = README.read_text().partition("\n    echo ")
    command, *printed = re.findall("^    (.+)$", "    echo " + after, re.MULTILINE)[:3]
    setUp, _, run = command.partition(" && ")
    assert run == "python settings.py"
    source = "from twisted.internet import reactor\n"
    source += "reactor.callWhenRunning(print, 'ready', flush=True)\n"
    subprocess.run(["bash", "-c", setUp], cwd=tmp_path, check=True)
    with python(tmp_path, source + example("deferToThread")) as running:
        running.waitForOutput("ready")
        running.kill(SIGHUP)
        running.waitForOutput("}\n")
        for shown, line in zip(printed, running.output().splitlines()[1:], strict=True):
            assert pattern(shown).fullmatch(line)
        running.kill(SIGTERM)
        assert running.wait() == 0


def test_theApplicationExample(tmp_path: Path) -> None:
    """
    C{twistd -y} runs it.
    """
    (tmp_path / "example.tac").write_text(example("setServiceParent"))
    with program(tmp_path, TWISTD, "-n", "-y", "example.tac") as twistd:
        # SIGHUP is watched when the service has started.
        waitFor(lambda: SIGHUP in caught(twistd.pid), "it starts")
        twistd.kill(SIGHUP)
        twistd.waitForOutput("SIGHUP from pid")
        assert twistd.stop() == -SIGTERM


def test_theExampleOfWaiting(tmp_path: Path) -> None:
    """
    It receives one signal, and then iterates.
    """
    with python(tmp_path, example("async for")) as running:
        waitFor(lambda: SIGUSR2 in caught(running.pid), "it waits")
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
        assert running.output() == "not yet\nhandled\n"


#: A program with the signal state that the README shows.
SHOWN = f"""{WORK}
name("twistd")
signal(SIGHUP, print)
signal(SIGTERM, print)
pthread_sigmask(SIG_BLOCK, [SIGHUP])
os.kill(os.getpid(), SIGHUP)
threading.Thread(target=work, args=[SIGUSR1]).start()
"""


@pytest.mark.fresh
def test_theStateOfAProcessIsPrintedAsShown(tmp_path: Path) -> None:
    """
    The output is as shown, except numbers and the C library's own signals.
    """
    shown = re.search(
        r"^    \$ python -m txsignalfd 4711\n((?:    .*\n)+)",
        README.read_text(),
        re.MULTILINE,
    )
    assert shown
    with python(tmp_path, SHOWN) as running:
        running.waitForOutput("\n")
        pids = {str(running.pid): "4711", running.output().split()[1]: "4712"}
        status = Path(f"/proc/{running.pid}/status")
        waitFor(lambda: "S (sleeping)" in status.read_text(), "it sleeps")
        child = runPython("-m", "txsignalfd", str(running.pid), check=True)

    def normal(text: str) -> list[str]:
        # Different numbers wrap differently: compare words.
        text = " ".join(text.split())
        text = re.sub(r"\d+ of \d+ signals queued for uid \d+", "queue", text)
        # Python 3.10 has no name for it.
        text = text.replace("SIGSTKFLT", "16")
        words = re.sub(r"\b(32|33)\b", "", text).split()
        return [re.sub(r"\d+", lambda n: pids.get(n[0], n[0]), word) for word in words]

    assert normal(child.stdout) == normal(shown[1])


def test_theExampleOfChildren(tmp_path: Path) -> None:
    """
    It reports the exit, and stops the reactor.
    """
    with python(tmp_path, example("ReactorSignals")) as running:
        assert running.wait() == 0
        assert running.output() == "ended: 3\n"


def test_theExampleOfCrochet(tmp_path: Path) -> None:
    """
    The reaper reports the exit.

    crochet itself polls each child ten times a second; the test turns this off.  The
    child exits after its pipes have closed, so that Twisted does not notice it.
    """
    source = (
        "from crochet._eventloop import EventLoop\n"
        "assert EventLoop._startReapingProcesses\n"
        "EventLoop._startReapingProcesses = lambda self: None\n"
    )
    late = "exec <&- >&- 2>&-; sleep 0.2; exit 3"
    source += example("crochet").replace("exit 3", late)
    with python(tmp_path, source) as running:
        assert running.wait() == 0, running.output()
        assert running.output() == "ended: 3\n"


def test_noProgramOfTheReadmeIsLeftOut() -> None:
    """
    Every Python example of the README is run here.
    """
    run = [
        example(str(node.args[0].value))
        for node in ast.walk(ast.parse(Path(__file__).read_bytes()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", None) == "example"
        and isinstance(node.args[0], ast.Constant)
    ]
    programs = [b.text for b in blocks(README.read_text()) if b.language == "python"]
    assert sorted(run) == sorted(programs)


def test_theCommandsAreThoseOfThisVersion() -> None:
    """
    The README has the commands that install and test, which CI runs.
    """
    text = README.read_text()
    assert "pip install -e '.[test]' --config-settings editable_mode=compat" in text
    assert "\n    pytest\n" in text


def test_theExampleOfTesting(tmp_path: Path) -> None:
    """
    It runs alone and prints nothing.
    """
    result = runPython("-c", example("MemorySignals()"), cwd=tmp_path)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)


def test_thePageOfBackendsNamesTheVariable() -> None:
    """
    It shows both ways to choose the handler backend.
    """
    page = (README.parent / "docs" / "backends.rst").read_text()
    assert f"{VARIABLE}=handler twistd -n signalfd" in page
    assert 'backend="handler"' in page
