# -*- test-case-name: tests.twistd.test_applications -*-
"""
L{ApplicationFile}: run an application file as C{twistd -y} does, and reload it.

A reload runs the file again and starts its services beside the old ones.  A module
that the file imports is not loaded again, so configuration in such a module stays.

The uid, the gid and the log observer of the application are those of the first
load: twistd uses them once, when it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.application.service import (
    IProcess,
    IService,
    loadApplication,
)
from twisted.logger import ILogObserver
from twisted.python.log import ILogObserver as ILegacyLogObserver

from txsignalfd._twistd.plugins import fewerCollections

#: The options of twistd that name a file, and how the file is loaded.
STYLES: Final = {"python": "python", "source": "source", "file": "pickle"}

#: The file that twistd loads if no option names one.
_DEFAULT_FILE: Final = "twistd.tap"

#: The components of an application that twistd uses, besides its services.
_COMPONENTS: Final = (IProcess, ILogObserver, ILegacyLogObserver)


class ApplicationFile:
    """
    A file with an application, in the place of a plugin.

    @ivar tapname: Its name in messages.
    """

    def __init__(self, path: str, style: str) -> None:
        """
        @param path: The path of the file.
        @param style: How it is loaded, one of the values of L{STYLES}.
        """
        self.tapname = path
        self._style = style
        self._first: Any = None

    def makeService(self, options: object) -> Any:
        """
        Load the file, and return the services of its application.

        @param options: Ignored: the file has none.
        @raise ValueError: If the file sets no variable C{application}.
        """
        try:
            with fewerCollections():
                application = loadApplication(self.tapname, self._style)
        except KeyError as error:
            if error.args != ("application",):
                raise
            raise ValueError(
                f"{self.tapname} sets no variable named application"
            ) from None
        if self._first is None:
            self._first = application
        return IService(application)

    def equip(self, application: Any) -> None:
        """
        Give twistd's own application the uid, the gid and the log observer of the
        file's.
        """
        for component in _COMPONENTS:
            own = self._first.getComponent(component, None)
            if own is not None:
                application.setComponent(component, own)


def applicationFile(options: Mapping[str, Any]) -> ApplicationFile | None:
    """
    Return the application file that a command line names, if it names one.

    @param options: The options of twistd, or those of C{twistd signalfd}.
    """
    for option, style in STYLES.items():
        path = options.get(option)
        if path and (option, path) != ("file", _DEFAULT_FILE):
            return ApplicationFile(path, style)
    return None
