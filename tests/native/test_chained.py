"""
Code that calls the handler that it has replaced, in programs of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemons import python
from tests.support.worlds import needsLinux

pytestmark = needsLinux

#: Watch SIGUSR1 with threads that existed before, and release it again.  Then print
#: how many signals were received, and how many had their old action before and after
#: the release.
PROGRAM = """
import ctypes, faulthandler, os, signal, sys, threading, time
from signal import SIGUSR1
from tests.support.reactors import newReactor, runReactor, until
from txsignalfd import dispatcherFor

received, performed = [], []

def untilPerformed(count):
    while len(performed) < count:
        signal.sigtimedwait([], 0.01)

async def story(reactor):
    dispatcher = dispatcherFor(reactor)
    dispatcher.addHandler(SIGUSR1, received.append)
    install()
    for expected in range(1, 6):
        os.kill(os.getpid(), SIGUSR1)
        await until(lambda: len(received) >= expected)
    await dispatcher.close()

def run():
    try:
        with newReactor() as reactor:
            runReactor(reactor, story)
    finally:
        finished.set()

finished = threading.Event()
threads = [threading.Thread(target=finished.wait) for _ in range(4)]
for thread in threads:
    thread.start()
signal.signal(SIGUSR1, lambda *_: performed.append("python"))

{install}

if {inThread}:
    reactorThread = threading.Thread(target=run)
    reactorThread.start()
    finished.wait()
    reactorThread.join()
else:
    run()
for thread in threads:
    thread.join()
watched = len(received), len(performed)
for expected in 1, 2, 3:
    os.kill(os.getpid(), SIGUSR1)
    untilPerformed(expected)
# A process whose handlers call each other without end uses all of the CPU.
print(*watched, len(performed), time.process_time() < 5)
"""

#: Not for all threads: CPython reads the frames of threads that run meanwhile, and may
#: crash in PyCode_Addr2Line, with or without this package.
FAULTHANDLER = """
def install():
    with open("dump", "wb") as dump:
        fd = os.dup(dump.fileno())
    faulthandler.register(SIGUSR1, file=fd, all_threads=False, chain=True)
"""

LIBRARY = """
#include <signal.h>
#include <stddef.h>
static struct sigaction old;
static int calls;
int install(int signo);
static void handler(int signo, siginfo_t *info, void *context)
{
    calls++;
    CALL;
}
int install(int signo)
{
    struct sigaction action = {.sa_sigaction = handler};

    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return sigaction(signo, &action, &old);
}
"""

USE_LIBRARY = """
library = ctypes.CDLL("./library.so")
def install():
    assert library.install(SIGUSR1) == 0
"""

SIGNAL = """
def install():
    action = (ctypes.c_ulong * 32)()
    libc = ctypes.CDLL(None)
    libc.sigaction(SIGUSR1, None, action)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(SIGUSR1, action[0])
"""

CALLS = {
    "void(int)": "((void (*)(int))old.sa_sigaction)(signo)",
    "garbage": "old.sa_sigaction(signo, (siginfo_t *)&calls, (void *)&signo)",
    "invalid": "old.sa_sigaction(signo, (siginfo_t *)8, (void *)8)",
    "NULL": "old.sa_sigaction(signo, NULL, NULL)",
    "siginfo": "old.sa_sigaction(signo, info, context)",
    "raise": "sigaction(signo, &old, NULL); raise(signo); install(signo)",
}


def run(directory: Path, install: str, inThread: bool) -> str:
    source = PROGRAM.replace("{install}", install)
    with python(directory, source.replace("{inThread}", str(inThread))) as running:
        assert running.wait() == 0
        return running.output()


@pytest.mark.parametrize("inThread", [False, True], ids=["main thread", "other thread"])
def test_faulthandlerMayCallOurHandler(tmp_path: Path, inThread: bool) -> None:
    """
    Each signal is received once while it is watched, and then has its old action.
    """
    assert run(tmp_path, FAULTHANDLER, inThread) == "5 0 3 True\n"


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_libraryMayCallOurHandler(tmp_path: Path, call: str) -> None:
    """
    The same, with any arguments, and with the reactor in another thread.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "library.c").write_text(LIBRARY.replace("CALL", call))
    command = [compiler, "-shared", "-fPIC", "-o", "library.so", "library.c"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert run(tmp_path, USE_LIBRARY, True) == "5 0 3 True\n"


def test_libraryMayInstallOurHandlerAgain(tmp_path: Path) -> None:
    """
    By signal(2), so that the kernel passes no siginfo.
    """
    assert run(tmp_path, SIGNAL, True) == "5 0 3 True\n"
