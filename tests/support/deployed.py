"""
An application file whose code, in a module, changes.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.daemons import commandFor

#: An application file whose code is in a module.
TAC = """
from twisted.application.service import Application
from answers import web
application = Application("example")
web.setServiceParent(application)
"""

MODULE = """
from twisted.application.service import MultiService
from twisted.application.strports import service
from twisted.web.server import Site
from twisted.web.static import Data
page = Data({text!r}, "text/plain")
page.isLeaf = True
web = MultiService()
for endpoint in {endpoints!r}:
    service(endpoint, Site(page)).setServiceParent(web)
"""


def deploy(directory: Path, port: int, text: bytes, *more: str) -> None:
    """
    Write an application file, and the module with its code.

    @param port: The port where it listens.
    @param text: Its answer.
    @param more: More endpoints.
    """
    endpoints = [f"tcp:{port}:interface=127.0.0.1", *more]
    (directory / "app.tac").write_text(TAC)
    module = directory / "answers.new"
    module.write_text(MODULE.format(endpoints=endpoints, text=text))
    module.rename(directory / "answers.py")


def application(directory: Path, *options: str) -> list[str]:
    """
    Return the command that runs the application file.
    """
    whole = commandFor(directory, *options, "-y", "app.tac")
    return ["env", "PYTHONDONTWRITEBYTECODE=1", *whole]
