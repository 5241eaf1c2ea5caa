"""
Programs with a main function of their own, as C{txsignalfd supervise} runs them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM

from tests.support.daemons import Program, program

#: Makes a site that answers with a text, or, below C{/slow}, when a file C{go} exists.
SITE = """
import os
import sys
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        if request.path == b"/slow":
            print("asked")
        self.answer(request)
        return NOT_DONE_YET

    def answer(self, request):
        from twisted.internet import reactor
        if request.path == b"/slow" and not os.path.exists("go"):
            reactor.callLater(0.01, self.answer, request)
        else:
            if request.path == b"/slow":
                print("answered")
            request.setHeader(b"content-length", b"%d" % len(text))
            request.write(text)
            request.finish()

text = {text!r}
port = {port}
site = Site(Page())
"""

#: Calls C{reactor.run}.
RUN = """
from twisted.internet import reactor

reactor.listenTCP(port, site, interface="127.0.0.1")
reactor.addSystemEventTrigger("before", "shutdown", print, "the trigger is called")
try:
    reactor.run()
finally:
    print("the program has ended")
"""


def write(directory: Path, main: str, port: int, text: bytes, first: str = "") -> None:
    """
    Write C{main.py}.
    """
    new = directory / "new"
    new.write_text(first + SITE.format(text=text, port=port) + main)
    new.rename(directory / "main.py")


def command(*words: str) -> list[str]:
    """
    Return the command line of C{txsignalfd supervise}.
    """
    return [sys.executable, "-m", "txsignalfd", "supervise", *words]


@contextmanager
def supervised(directory: Path, *words: str) -> Iterator[Program]:
    """
    Run C{txsignalfd supervise}, wait until it serves, and check in the end that SIGTERM
    stops it if it still runs.
    """
    with program(directory, *command(*words)) as running:
        running.waitForOutput(f"pid {running.pid} serves")
        yield running
        if running.process.poll() is None:
            assert running.stop() == -SIGTERM
