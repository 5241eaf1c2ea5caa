"""
Names of processes cannot deceive the reader of a log.
"""

from __future__ import annotations

import os
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.support.kernel import forked
from tests.support.statuses import THREAD
from txsignalfd import SigInfo
from txsignalfd._proc.quoting import quoted
from txsignalfd._proc.report import toJSON, toText
from txsignalfd._proc.sender import commandOf, describeWithCommand
from txsignalfd._proc.status import ProcessSignals, ofProcess

#: Names of a process, at most 15 bytes, and how they are shown.
NAMES = {
    "bash": "bash",
    "tmux: server": "tmux: server",
    "kworker/0:1-ev": "kworker/0:1-ev",
    "né-日本": "né-日本",
    "(sd-pam)": '"(sd-pam)"',
    "sh, uid 0) by k": '"sh, uid 0) by k"',
    "sh) by kill": '"sh) by kill"',
    'a"b\\c': '"a\\"b\\\\c"',
    " sh ": '" sh "',
    "\x1b[2J\x1b[31m": '"\\x1b[2J\\x1b[31m"',
    "\a\b\t\r": '"\\x07\\x08\\t\\r"',
    "a\nSIGHUP": '"a\\nSIGHUP"',
    "end\n": '"end\\n"',
    "\x85\x9b": '"\\x85\\x9b"',
    "\u202e\u2066x": '"\\u202e\\u2066x"',
    "a\u2028b\u200bc": '"a\\u2028b\\u200bc"',
}
#: One of them.
NAME = "a\nSIGHUP"


@pytest.mark.parametrize(("name", "shown"), NAMES.items())
def test_unusualNameIsQuoted(name: str, shown: str) -> None:
    """
    Escapes, line ends, bidirectional controls and brackets do not reach the reader.
    """
    assert quoted(name) == shown
    assert quoted("") == '""'


@forked
def test_nameOfASenderIsQuoted() -> None:
    """
    The name itself is known from the kernel.
    """
    Path("/proc/self/comm").write_bytes(NAME.encode())
    assert commandOf(os.getpid()) == NAME
    line = describeWithCommand(SigInfo.make(SIGHUP, pid=os.getpid(), uid=5))
    assert line == f"SIGHUP from pid {os.getpid()} ({NAMES[NAME]}, uid 5) by kill"


@forked
def test_nameOfAProcessIsQuotedInText() -> None:
    """
    JSON has the name itself.
    """
    Path("/proc/self/comm").write_bytes(NAME.encode())
    process = ofProcess()
    assert toText(process).startswith(f"pid {os.getpid()} ({NAMES[NAME]}): running")
    assert toJSON(process)["name"] == toJSON(process)["threads"][0]["name"] == NAME


def test_nameOfAThreadIsQuotedInText() -> None:
    """
    Threads have names of their own.
    """
    thread = THREAD._replace(tid=4713, name=NAME, blocked=frozenset())
    text = toText(ProcessSignals((THREAD, thread)))
    assert f"thread 4713 ({NAMES[NAME]})\n" in text


def test_bytesThatAreNoTextAreReplaced() -> None:
    """
    The name is valid text, also in JSON.
    """
    pid = os.fork()
    if pid == 0:
        Path("/proc/self/comm").write_bytes(b"\xff\xfe")
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert commandOf(pid) == ofProcess(pid).main.name == "\ufffd\ufffd"
    os.waitpid(pid, 0)
