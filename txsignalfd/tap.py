# -*- test-case-name: tests.twistd.test_tap -*-
"""
C{twistd signalfd}: watch signals, and tell of each; C{twistd signalfd PLUGIN}:
run any plugin of twistd, and make it anew on SIGHUP.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from getopt import getopt
from math import inf
from signal import SIGHUP
from typing import Any, Final

from twisted.application.service import IService
from twisted.python.reflect import fullyQualifiedName
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from txsignalfd._kernel.mask import checkWatchable
from txsignalfd._native.names import signalNumber
from txsignalfd._reload.inherited import shareInherited, unclaimed, unshareInherited
from txsignalfd._reload.resources import Resources
from txsignalfd._reload.service import ReloadService
from txsignalfd._reload.sharing import takingEarly
from txsignalfd._twistd.actions import parseOn
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.plugins import PluginFactory, installedPlugins
from txsignalfd._twistd.signallog import (
    DEFAULT_SIGNALS,
    SignalLogger,
    SignalLogService,
    logToStderr,
)
from txsignalfd._twistd.startup import hangup
from txsignalfd._twistd.systemd import Notifier

#: What open connections are given, where the user does not say.
_SECONDS: Final = 30.0
_TIMES: Final = ("drain", "stop-timeout")


def signalNumbers(names: str) -> list[int]:
    """
    Read what C{--signals} is given.

    @param names: Names or numbers, with commas between them.
    @raise UsageError: For one that is no signal, or cannot be watched.
    """
    try:
        return checkWatchable(signalNumber(name.strip()) for name in names.split(","))
    except ValueError as error:
        raise UsageError(f"--signals: {error}") from None


def seconds(option: str, text: str) -> float:
    """
    Read a time.

    @param option: What it is given to.
    @param text: A number of seconds.
    @raise UsageError: When it is none.
    """
    with suppress(ValueError):
        value = float(text)
        if 0 <= value < inf:
            return value
    raise UsageError(f"{option}: {text!r} is no time in seconds")


class Options(UsageOptions):
    """
    The command line.
    """

    longdesc = (
        "Without a command: watch signals, and log what each was and who sent it."
        " With one: run it as twistd would, make it anew on SIGHUP while it serves,"
        " stop it in order on SIGTERM and SIGINT (a second one: at once) and at once"
        " on SIGQUIT, rotate the log on SIGUSR1, log a report on SIGUSR2."
        " --on USR1=ACTION changes that for any signal: the actions are reload, stop,"
        " quit, rotate, report, ignore, call:MODULE.FUNCTION and run:COMMAND."
        " Try: twistd -n signalfd web --listen tcp:8080 --path ."
    )
    optFlags = [
        [
            "stop-first",
            None,
            (
                "stop the old service before the new one is made, for what two of"
                " them cannot share; who connects meanwhile waits"
            ),
        ]
    ]
    optParameters = [
        [
            "signals",
            "s",
            None,
            (
                "Without a command, what to watch, such as HUP,USR1,RTMIN+3: names"
                " with or without SIG, or numbers. [default: all that can be watched,"
                " but for those of a terminal's job control: TSTP, TTIN, TTOU and"
                " CONT]"
            ),
            signalNumbers,
        ],
        [
            "format",
            "f",
            None,
            (
                "Without a command: text, a line in the log, or json, an object a"
                " line on stdout (in the log where there is no stdout)"
                " [default: text]"
            ),
        ],
        [
            "drain",
            None,
            None,
            "seconds that a reload leaves to connections that are open [default: 30]",
            partial(seconds, "--drain"),
        ],
        [
            "stop-timeout",
            None,
            None,
            "seconds that a stop leaves to connections that are open [default: 30]",
            partial(seconds, "--stop-timeout"),
        ],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["on"] = {}
        self.plugins: dict[str, Any] = {}
        self._arguments: list[str] = []

    def getSynopsis(self) -> str:
        """
        How it is called.
        """
        return "Usage: twistd [options] signalfd [options] [command [its options]]"

    def opt_on(self, text: str) -> None:
        """SIGNAL=ACTION: what a signal does; may be given several times."""
        try:
            signo, action = parseOn(text)
        except ValueError as error:
            raise UsageError(f"--on: {error}") from None
        self["on"][signo] = action

    def __missing__(self, key: str) -> Any:
        # A plugin may ask for what twistd was told, as if it ran under it.
        if self.parent is None:
            raise KeyError(key)
        return self.parent[key]

    @property
    def subCommands(self) -> list[tuple[str, None, Callable[[], Any], str]]:
        """
        The plugins of twistd.
        """
        if not self.plugins:
            self.plugins = installedPlugins()
        return [
            (name, None, partial(_optionsOf, maker), maker.description)
            for name, maker in self.plugins.items()
        ]

    def parseOptions(self, options: list[str] | None = None) -> None:
        """
        Parse the command line.

        @raise UsageError: When it is wrong.
        @raise SystemExit: The same, in twistd, which in its older releases
            took a usage error for a success.
        """
        self._arguments = sys.argv[1:] if options is None else options
        if self.parent is None:
            super().parseOptions(options)
            return
        hangup.hold()
        shareInherited()
        try:
            super().parseOptions(options)
        except BaseException as error:
            hangup.restore()
            unshareInherited()
            if isinstance(error, UsageError):
                raise SystemExit(f"{self}\ntwistd signalfd: {error}") from error
            raise

    def parseAgain(self) -> Any:
        """
        Parse the plugin's part of the same command line once more.

        @return: The plugin's options.
        @raise UsageError: When it is wrong now.
        """
        _, (name, *arguments) = getopt(self._arguments, self.shortOpt, self.longOpt)
        again = self.plugins[name].options()
        again.parent = self
        again.parseOptions(arguments)
        return again

    def postOptions(self) -> None:
        """
        Check the options together.

        In the foreground JSON has stdout for itself, and twistd's log goes to
        stderr, unless the user has said where to.
        """
        if self.subCommand is not None:
            self._forPlugin()
            return
        for option in ("on", "stop-first", *_TIMES):
            # No time at all is a time too.
            if self[option] or (option in _TIMES and self[option] == 0):
                raise UsageError(f"--{option} needs a command, such as web")
        self["format"] = self["format"] or "text"
        if self["format"] not in ("text", "json"):
            raise UsageError(f"--format: {self['format']!r} is neither text nor json")
        if self["signals"] is None:
            self["signals"] = DEFAULT_SIGNALS
        if SIGHUP not in self["signals"]:
            hangup.restore()
        if self.parent is not None and self.inForeground and self["format"] == "json":
            chosen = ("logger", "logfile", "syslog")
            if not any(self.parent.get(option) for option in chosen):
                self.parent["logger"] = fullyQualifiedName(logToStderr)

    def _forPlugin(self) -> None:
        for option in ("signals", "format"):
            if self[option] is not None:
                raise UsageError(f"--{option} is for watching only, without a command")
        for option in _TIMES:
            if self[option] is None:
                self[option] = _SECONDS

    @property
    def inForeground(self) -> bool:
        """
        Whether there will be a stdout.
        """
        return self.parent is None or bool(self.parent.get("nodaemon", True))


def _optionsOf(maker: Any) -> Any:
    # The module of a plugin is loaded when its options are asked for.
    return maker.options()


def makeService(options: Options) -> IService:
    """
    Make what C{twistd signalfd} runs.

    @param options: The command line.
    """
    if options.subCommand is None:
        stdout = sys.stdout if options.inForeground else None
        logger = SignalLogger(options["format"] == "json", stdout)
        return SignalLogService(options["signals"], logger.receive)
    from twisted.internet import reactor

    maker = options.plugins[options.subCommand]
    early = Resources(unclaimed)
    with takingEarly(reactor, early):
        factory = PluginFactory(maker, options.subOptions, options.parseAgain)
    reloads = ReloadService(
        factory,
        drain=options["drain"],
        stopTimeout=options["stop-timeout"],
        stopFirst=bool(options["stop-first"]),
        reactor=reactor,
    )
    # twistd runs nothing else.
    reloads.alone = True
    reloads.early = early
    notifier = Notifier(reactor)
    daemon = Daemon(reloads, options["on"], options.inForeground, notifier, reactor)
    # So early that most others' functions run before it.
    atexit.register(daemon.exit)
    return daemon
