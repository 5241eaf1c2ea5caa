# -*- test-case-name: tests.twistd.test_plugins -*-
"""
The service of a plugin of twistd, made again at each reload by the loaded code.

L{PluginFactory} parses the plugin's command line again, and calls the plugin again.
It imports no module again.  If there is other code in the files, the log has to say
so, or an operator believes that the new code runs: L{LoadedCode} finds these files.
Every loaded module counts, also an installed package, because an application may be
one.  The standard library does not.  One stat(2) for each file takes about 2 ms for
1,000 files.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from operator import attrgetter
from types import ModuleType
from typing import Any, Final, TypeAlias

from twisted.application.service import IServiceMaker
from twisted.logger import Logger
from twisted.plugin import IPlugin, getPlugins

from txsignalfd._reload.generation import checkService

_log: Final = Logger("txsignalfd.daemon.Daemon")

#: The compared state of a file: the time of the last change, and the size.
FileState: TypeAlias = tuple[int, ...]

# sysconfig takes milliseconds to say the same.
_STANDARD_LIBRARY: Final = os.path.join(os.path.dirname(os.__file__), "")
_INSTALLED: Final = tuple(
    os.path.join(_STANDARD_LIBRARY, name, "")
    for name in ("site-packages", "dist-packages")
)

#: The plugin of this package, which cannot run itself.
_OWN_NAME = "signalfd"


#: How many objects are made between two garbage collections during imports.
_FEWER: Final = 100_000


@contextmanager
def fewerCollections() -> Iterator[None]:
    """
    Collect garbage less often while modules are imported.

    Imports make many objects and little garbage, and the search for garbage takes
    about a tenth of their time.
    """
    before = gc.get_threshold()
    gc.set_threshold(_FEWER, *before[1:])
    try:
        yield
    finally:
        # A module may have chosen its own.
        if gc.get_threshold()[0] == _FEWER:
            gc.set_threshold(*before)


def _loadedPlugins() -> Iterator[Any]:
    """
    Yield what C{getPlugins(IServiceMaker)} yielded when it was called last.

    It has imported the module of each plugin.  To search all directories again would
    take longer.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("twisted.plugins."):
            for each in list(vars(module).values()):
                if IServiceMaker.providedBy(each) and IPlugin.providedBy(each):
                    yield each


def installedPlugins(areLoaded: bool = False) -> dict[str, Any]:
    """
    Return the C{IServiceMaker} plugins that twistd offers, by name.

    @param areLoaded: Whether twistd has just searched for them in this process.
    """
    found = _loadedPlugins() if areLoaded else getPlugins(IServiceMaker)
    makers = sorted(found, key=attrgetter("tapname"))
    return {maker.tapname: maker for maker in makers if maker.tapname != _OWN_NAME}


class PluginNames:
    """
    The names of the plugins, found when a shell asks for them.
    """

    def __iter__(self) -> Iterator[str]:
        return iter(installedPlugins())


def parseOptions(maker: Any, parent: Any, arguments: list[str]) -> Any:
    """
    Parse the options of a plugin.

    @param maker: The C{IServiceMaker}.
    @param parent: The options of C{twistd signalfd}.
    @param arguments: The part of the command line after the name of the plugin.
    @raise UsageError: If they are wrong.
    """
    options = maker.options()
    options.parent = parent
    options.parseOptions(arguments)
    return options


def logicalDirectory() -> str:
    """
    Return the working directory as the shell names it, with symbolic links.

    Another release may be deployed by changing such a link.
    """
    logical = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(logical) and os.path.samefile(logical, os.curdir):
            return logical
    return os.getcwd()


def _openDirectory() -> int:
    # O_PATH needs no permission to read the directory.
    return os.open(os.curdir, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)


class PluginFactory:
    """
    Makes the service of a plugin from its command line.
    """

    def __init__(self, maker: Any, options: Any, parseAgain: Callable[[], Any]) -> None:
        """
        Make the first service, as twistd does before it becomes a daemon.

        @param maker: The C{IServiceMaker}.
        @param options: The parsed options of the plugin.
        @param parseAgain: Parses the same command line again, so that the files
            that it names are read again.
        """
        self._maker = maker
        self._parseAgain = parseAgain
        self._directory = logicalDirectory()
        self._entered = os.stat(os.curdir)
        self._root = os.stat("/")
        self._first = checkService(maker.makeService(options), self)

    def __repr__(self) -> str:
        return f"the service of {self._maker.tapname}"

    def __call__(self) -> Any:
        """
        Return the first service, and a new service for each further call.
        """
        first, self._first = self._first, None
        if first is not None:
            return first
        # The root directory is another one after C{--chroot} of twistd.
        if not os.path.samestat(os.stat("/"), self._root):
            return self._maker.makeService(self._parseAgain())
        before = _openDirectory()
        try:
            isThere = os.path.samestat(os.fstat(before), self._entered)
            self._enter(isThere)
            try:
                return self._maker.makeService(self._parseAgain())
            finally:
                if not isThere:
                    os.fchdir(before)
        finally:
            os.close(before)

    def equip(self, application: Any) -> None:
        """
        Let the first service join twistd's application for a moment.

        It may give the application a log observer then, as carbon does.  twistd does
        this before it starts the service.
        """
        self._first.setServiceParent(application)
        self._first.disownServiceParent()

    def _enter(self, isThere: bool) -> None:
        """
        Enter the directory of the command, which may be another one by now.

        @param isThere: Whether the process still works in that directory, and
            not in that of C{--rundir}.
        """
        try:
            os.chdir(self._directory)
        except OSError:
            # It was removed, or C{--uid} may not enter it any more.  Absolute paths
            # can still be read.
            if not isThere:
                raise
        else:
            self._entered = os.stat(os.curdir)

    def prepare(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """
        Return to the present working directory if the reload fails.

        L{ReloadService.addParticipant} calls this before each reload.
        """
        before = _openDirectory()
        entered = self._entered

        def rollback() -> None:
            self._entered = entered
            os.fchdir(before)
            os.close(before)

        return partial(os.close, before), rollback


class LoadedCode:
    """
    The files of the modules that are loaded, as they were then.
    """

    def __init__(self) -> None:
        #: C{None} for a file that was reported to be gone.
        self._states: dict[str, FileState | None] = {}
        self._modules: dict[str, ModuleType] = {}
        self.addModules()

    @property
    def paths(self) -> list[str]:
        """
        The files.
        """
        return list(self._states)

    def addModules(self) -> None:
        """
        Add the modules that were loaded since the last call.
        """
        known, self._modules = self._modules, sys.modules.copy()
        for name, module in self._modules.items():
            if known.get(name) is module:  # most are: this runs in each reload
                continue
            path = _fileOf(module)
            if path is not None and path not in self._states:
                state = stateOf(path)
                # A file that is not there is in an archive, for example.
                if state is not None:
                    self._states[path] = state

    def changes(self) -> list[str]:
        """
        Return the files that have changed since they were loaded, or since the last
        call.
        """
        changed = []
        for path, known in self._states.items():
            state = stateOf(path)
            if state != known:
                self._states[path] = state
                changed.append(path)
        return sorted(changed)

    def logChanges(self) -> None:
        """
        Log which files have changed since they were loaded, once for each change.
        """
        changed = self.changes()
        if changed:
            _log.warn(
                "{files} changed since {they} loaded; a reload keeps the loaded code",
                files=listed(changed),
                they="it was" if len(changed) == 1 else "they were",
            )


def listed(paths: list[str]) -> str:
    """
    Return the first path, and the number of the others, before a participle.
    """
    first, *others = paths
    if not others:
        return f"{first} has"
    return f"{first} and {len(others)} other file{'s' * (len(others) > 1)} have"


def _fileOf(module: object) -> str | None:
    """
    Return the file of a module, unless it belongs to the standard library.
    """
    # type(), because objects of C extensions pretend to be modules.
    if not issubclass(type(module), ModuleType):
        return None
    # An attribute of a lazy module would import it.
    path = object.__getattribute__(module, "__dict__").get("__file__")
    if not isinstance(path, str):
        return None
    if path.startswith(_STANDARD_LIBRARY) and not path.startswith(_INSTALLED):
        return None
    return os.path.abspath(path)


def stateOf(path: str) -> FileState | None:
    """
    Return the state of a file, or C{None} if it cannot be read.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    # Other files may have the time and the size of this one, as in deployments with
    # constant times, and any program may set the time of a file it has changed.
    replaced = found.st_dev, found.st_ino, found.st_ctime_ns
    return found.st_mtime_ns, found.st_size, *replaced
