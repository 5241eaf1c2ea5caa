"""
Example contents of C{/proc/PID/status}, and a process in a known state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemons import Program, python
from tests.support.forkserver import freshInterpreters
from txsignalfd._proc.status import ThreadSignals

#: A status as Linux 6.18 writes it, without lines that do not matter here.
STATUS = """\
Name:\tex ample:\\n
Umask:\t0022
State:\tS (sleeping)
Tgid:\t4711
Ngid:\t0
Pid:\t4712
Uid:\t1000\t1001\t1002\t1003
NStgid:\t4711\t17
NSpid:\t4712\t18
Kthread:\t0
Threads:\t2
SigQ:\t3/63304
SigPnd:\t0000000000000200
ShdPnd:\t0000000200000001
SigBlk:\t0000000200000203
SigIgn:\t0000000001001000
SigCgt:\t0000000000000006
CapInh:\t0000000000000000
Something new:
"""


def statusWith(field: str, value: str) -> str:
    """
    Return the example with one line changed.
    """
    lines = STATUS.splitlines()
    return "\n".join(
        f"{field}:\t{value}" if line.startswith(field + ":") else line for line in lines
    )


#: The thread that the example describes.
THREAD = ThreadSignals.fromStatus(STATUS)

#: The signals that the C library handles itself as soon as there are threads.
C_LIBRARYS = frozenset({32, 33})

#: The beginning of a program whose thread has a signal pending for it alone.
WORK = """
import os, threading
from signal import *

def name(text):
    open(f"/proc/self/task/{threading.get_native_id()}/comm", "w").write(text)

def work(signo):
    name("worker")
    pthread_sigmask(SIG_BLOCK, {signo})
    pthread_kill(threading.get_ident(), signo)
    # In one piece, also where the output is not buffered.
    os.write(1, b"ready %d\\n" % threading.get_native_id())
    threading.Event().wait()
"""

#: Two threads with different masks; each has a signal pending for it alone.
TWO_THREADS = f"""{WORK}
name("main one")
signal(SIGHUP, SIG_IGN)
signal(SIGUSR1, print)
pthread_sigmask(SIG_BLOCK, [SIGUSR2, SIGTERM, SIGRTMIN + 1])
os.kill(os.getpid(), SIGTERM)
os.kill(os.getpid(), SIGRTMIN + 1)
pthread_kill(threading.get_ident(), SIGUSR2)
threading.Thread(target=work, args=[SIGWINCH]).start()
"""


@contextmanager
def twoThreads(directory: Path) -> Iterator[tuple[Program, int]]:
    """
    Run the program with two threads, and yield it with its other thread's id.
    """
    # With the dispositions of a fresh interpreter.
    with freshInterpreters(), python(directory, TWO_THREADS) as running:
        running.waitForOutput("ready")
        # The main thread waits for the other, which is about to wait.
        yield running, int(running.output().split()[1])
