# -*- test-case-name: tests.twistd.test_tap -*-
"""
The options of C{twistd signalfd}, which logs each signal, and of C{twistd
signalfd PLUGIN}, which runs any twistd plugin and reloads it on SIGHUP.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from getopt import getopt
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python.reflect import fullyQualifiedName
from twisted.python.usage import CompleteFiles, CompleteList, Completions, UsageError
from twisted.python.usage import Options as UsageOptions

from txsignalfd._reload.generation import Resources
from txsignalfd._reload.sharing import (
    recordingStartup,
    shareInherited,
    unclaimed,
    unshareInherited,
)
from txsignalfd._twistd.actions import DEFAULTS, SIMPLE, parseOn
from txsignalfd._twistd.applications import ApplicationFile, applicationFile
from txsignalfd._twistd.arguments import (
    documented,
    signalNumbers,
    twistdFlags,
    twistdParameters,
)
from txsignalfd._twistd.daemon import Daemon
from txsignalfd._twistd.makers import ReloadableMaker, originalOf
from txsignalfd._twistd.making import makeDaemon, makeSupervisor, makeWorker
from txsignalfd._twistd.notstarted import hideTraceback, makingService
from txsignalfd._twistd.plugins import (
    PluginFactory,
    PluginNames,
    fewerCollections,
    installedPlugins,
    parseOptions,
)
from txsignalfd._twistd.serviceoptions import SERVICE_OPTIONS, ServiceOption
from txsignalfd._twistd.settings import Settings
from txsignalfd._twistd.startup import removeOwnPidfile, startupSignals
from txsignalfd._twistd.workeroptions import (
    OF_SUPERVISOR,
    Unparsed,
    becomeSupervisor,
    becomeWorker,
    resumeSupervisor,
    watchedBy,
    workerSettings,
)
from txsignalfd._version import __version__
from txsignalfd._workers.inheritance import inheritance

if TYPE_CHECKING:
    from txsignalfd._workers.worker import Worker


class Options(UsageOptions):
    """
    The command line of C{twistd signalfd}.
    """

    longdesc = (
        "Without a command (a plugin of twistd), watch signals and log each one with"
        " its sender. With a command, run it as twistd does. SIGHUP reloads it: the"
        " command line and its configuration are read again, and open connections are"
        " drained."
        " SIGTERM and SIGINT stop it after open connections have drained, a second"
        " one stops it at once, as SIGQUIT does. SIGUSR1 rotates the log, SIGUSR2"
        " logs a report. --on changes the action of any signal."
        " Try: twistd -n signalfd web --listen tcp:8080 --path ."
    )
    optFlags: list[list[Any]] = twistdFlags()
    optParameters: list[list[Any]] = [
        *twistdParameters(),
        [
            "signals",
            "s",
            None,
            (
                "Without a command: the signals to watch, such as HUP,USR1,RTMIN+3, as"
                " names with or without SIG, or numbers. [default: all signals that"
                " can be watched, except TSTP, TTIN, TTOU and CONT, which a terminal"
                " uses for job control]"
            ),
            signalNumbers,
        ],
        [
            "format",
            "f",
            None,
            (
                "Without a command: text (lines in the log) or json (one object on"
                " each line of stdout, or in the log if there is no stdout)"
                " [default: text]"
            ),
        ],
        [
            "python",
            "y",
            None,
            "run an application from a Python file, as twistd -y does, and reload it",
        ],
        [
            "source",
            None,
            None,
            "run an application from an AOT file, as twistd --source does",
        ],
        ["file", None, None, "run an application from a pickle, as twistd --file does"],
    ]

    #: How the daemon acts on signals, drains and stops.
    settings: Settings
    compData: Completions = Completions(
        extraActions=[
            CompleteList(PluginNames(), descr="command"),
            CompleteFiles(repeat=True),
        ]
    )
    #: The beginning of the command line, for messages.
    command: str = "twistd signalfd"

    def __init__(self) -> None:
        super().__init__()
        self["on"] = {}
        #: Before C{makeService} is called, a plugin may set options of twistd.
        self.isStarting = True
        self.plugins: dict[str, Any] = {}
        #: The resources that the plugin acquires before its service is started.
        self.startup: Resources = Resources(unclaimed)
        #: The application file to run in place of a plugin.
        self.application: ApplicationFile | None = None
        self._arguments: list[str] = []
        #: Options of Python for the workers.
        self.interpreter: list[str] = []
        #: The connection to the supervisor, in a worker.
        self.worker: Worker | None = None
        #: The pidfile of the process, in which this program has replaced another one.
        self.pidfile: str = ""
        #: Whether every part of the command line was parsed.
        self._hasParsed = False

    def getSynopsis(self) -> str:
        """
        Return the first line of the help.
        """
        return "Usage: twistd [options] signalfd [options] [command [its options]]"

    def opt_version(self) -> None:
        """Print the version of txsignalfd and exit."""
        sys.stdout.write(f"txsignalfd {__version__}\n")
        raise SystemExit(0)

    @documented(
        f"SIGNAL=ACTION: the action of a signal (repeatable): {', '.join(SIMPLE)},"
        " call:MODULE.FUNCTION or run:COMMAND"
        " (leave: the program handles the signal itself)"
    )
    def opt_on(self, text: str) -> None:  # noqa: D102
        try:
            signo, action = parseOn(text)
        except ValueError as error:
            raise UsageError(f"--on: {error}") from None
        self["on"][signo] = action
        if self.parent is not None and not self._isCheckOnly:
            startupSignals.defer({signo: action})

    @property
    def _isCheckOnly(self) -> bool:
        """
        Whether the command line is only checked: nothing is changed or opened then.
        """
        return getattr(self.parent, "isCheckOnly", False)

    @property
    def maker(self) -> Any:
        """
        The plugin or the application file to run, or C{None}.
        """
        if self.subCommand is not None:
            return originalOf(self.plugins[self.subCommand])
        return self.application

    # A plugin reads, and may set, options of twistd through its parent.

    def __missing__(self, key: str) -> Any:
        if self.parent is None:
            raise KeyError(key)
        if key == "pidfile" and not self.isStarting:
            # At a reload the pidfile names this process.  A plugin may refuse to
            # start beside the process that its pidfile names.
            return ""
        return self.parent[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if super().__contains__(key) or key not in self:
            super().__setitem__(key, value)
        elif self.parent is not None and self._isForTwistd(key):
            self.parent[key] = value

    def _isForTwistd(self, key: str) -> bool:
        """
        Whether a plugin may set an option of twistd now.

        A worker that writes the pidfile of its service would hinder the next one.
        """
        return self.isStarting and not (self.worker and key in OF_SUPERVISOR)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in (self.parent or {})

    def get(self, key: str, default: Any = None) -> Any:
        """
        Return an option, also one of twistd.
        """
        try:
            return self[key]
        except KeyError:
            return default

    @property
    def subCommands(self) -> list[tuple[str, None, Callable[[], Any], str]]:
        """
        The plugins of twistd, as commands.
        """
        if not self.plugins:
            # twistd and twist have looked for this plugin.
            self.plugins = installedPlugins(areLoaded=self.parent is not None)
        return [
            (name, None, partial(self._optionsOf, originalOf(maker)), maker.description)
            for name, maker in self.plugins.items()
        ]

    @property
    def isSupervisor(self) -> bool:
        """
        Whether the service runs in other processes, the workers.
        """
        return self["workers"] is not None and self.worker is None

    def _optionsOf(self, maker: Any) -> Any:
        wantsHelp = {"--help", "--version"} & set(self._arguments)
        if self.isSupervisor and not (wantsHelp or self._isCheckOnly):
            return Unparsed()
        self._addVariables()
        # maker.options imports the module of the plugin.
        with fewerCollections():
            options = maker.options()
        parse = options.parseOptions

        def parseOptions(arguments: list[str] | None = None) -> None:
            from twisted.internet import reactor

            # An option may acquire something, as --wsgi of web does.
            with recordingStartup(reactor, self.startup):
                parse(arguments)

        if not self._isCheckOnly:
            options.parseOptions = parseOptions
        return options

    def parseOptions(self, options: list[str] | None = None) -> None:
        """
        Parse the command line.

        @raise UsageError: For a wrong command line, except under twistd.
        @raise SystemExit: For a wrong command line under twistd, whose older
            releases exit with 0 after a C{UsageError}.
        """
        self._arguments = sys.argv[1:] if options is None else options
        if self.parent is None or self._isCheckOnly:
            self._parse()
            return
        startupSignals.defer(DEFAULTS)
        self.worker = becomeWorker(self.parent)
        if self.worker is None and inheritance() is not None:
            self.pidfile = resumeSupervisor(self.parent)
        removeOwnPidfile(self.parent.get("pidfile") or "")
        shareInherited()
        try:
            with (
                nullcontext() if self.worker is None else self.worker.making(UsageError)
            ):
                self._parse()
        except BaseException as error:
            startupSignals.giveUp()
            unshareInherited()
            if isinstance(error, UsageError):
                raise SystemExit(
                    f"{self.command}: {error} (try: {self.command} --help)"
                ) from None
            raise

    def _parse(self) -> None:
        try:
            super().parseOptions(self._arguments)
        except UsageError as error:
            inPlugin = self.subCommand is not None and not self._hasParsed
            from txsignalfd._twistd.usage import explain

            reason = explain(str(error), self, self._arguments, inPlugin)
            raise UsageError(reason) from None

    @property
    def parseAgain(self) -> Callable[[], Any]:
        """
        A function that parses the options of the plugin again, from the same
        command line, and returns them.
        """
        if self.subCommand is None:
            return lambda: None
        _, (_, *arguments) = getopt(self._arguments, self.shortOpt, self.longOpt)
        return partial(parseOptions, self.maker, self, arguments)

    def postOptions(self) -> None:
        """
        Check how the options combine, and set their defaults.

        In the foreground, stdout is reserved for JSON, and the log of twistd goes
        to stderr, unless the user has chosen another destination.
        """
        self._hasParsed = True
        own = applicationFile(self)
        if own is not None and self.subCommand is not None:
            raise UsageError(
                f"expected an application file or a command, got {own.tapname} and"
                f" {self.subCommand}"
            )
        # twistd -y FILE signalfd means the same as twistd signalfd -y FILE.
        self.application = own or applicationFile(self.parent or {})
        if self.subCommand is not None or self.application is not None:
            self._forService()
            return
        from txsignalfd._twistd.signallog import DEFAULT_SIGNALS, logToStderr

        if self["on"]:
            raise UsageError("--on: only with a command, such as web")
        self._refuse(SERVICE_OPTIONS, "only with a command, such as web")
        self["format"] = self["format"] or "text"
        if self["format"] not in ("text", "json"):
            raise UsageError(f"--format: expected text or json, got {self['format']!r}")
        if self["signals"] is None:
            self["signals"] = DEFAULT_SIGNALS
        startupSignals.restore(DEFAULTS.keys() - self["signals"])
        if self.parent is not None and self.inForeground and self["format"] == "json":
            chosen = ("logger", "logfile", "syslog")
            if not any(self.parent.get(option) for option in chosen):
                self.parent["logger"] = fullyQualifiedName(logToStderr)

    def _forService(self) -> None:
        for option in ("signals", "format"):
            if self[option] is not None:
                raise UsageError(f"--{option}: only without a command")
        if self["workers"] is None:
            ofWorkers = [each for each in SERVICE_OPTIONS if each.ofWorkers]
            self._refuse(ofWorkers, "only with --workers")
        defaults = self._settingsOf(self.plugins.get(self.subCommand or ""))
        drain, stopTimeout = self["drain"], self["stop-timeout"]
        self.settings = Settings(
            {**defaults.on, **self["on"]},
            defaults.drain if drain is None else drain,
            defaults.stopTimeout if stopTimeout is None else stopTimeout,
            bool(self["stop-first"]) or defaults.stopFirst,
            self["metrics"] or defaults.metrics,
        )
        self._addVariables()
        if self.parent is not None and not self._isCheckOnly:
            startupSignals.defer(self.settings.on)
        if self.isSupervisor:
            becomeSupervisor(self.parent)

    def _addVariables(self) -> None:
        """
        Let a check have the environment of a worker.
        """
        if self._isCheckOnly and self["environment-file"] is not None:
            from txsignalfd._workers.environmentfile import readEnvironment

            variables = readEnvironment(self["environment-file"])
            os.environ.update(variables)
            # Python reads this one only when it starts.
            places = variables.get("PYTHONPATH", "").split(os.pathsep)
            sys.path[1:1] = [os.path.abspath(each) for each in places if each]

    def _refuse(self, options: Iterable[ServiceOption], why: str) -> None:
        for option in options:
            value = self[option.name]
            if value is not None if option.kind else value:
                raise UsageError(f"--{option.name}: {why}")

    def _settingsOf(self, maker: Any) -> Settings:
        try:
            return (
                maker.settings if isinstance(maker, ReloadableMaker) else Settings({})
            )
        except (TypeError, ValueError) as error:
            raise UsageError(f"reloadable: {error}") from None

    @property
    def inForeground(self) -> bool:
        """
        Whether the process stays in the foreground, with its stdout.
        """
        return self.parent is None or bool(self.parent.get("nodaemon", True))


def makeService(options: Options) -> IService:
    """
    Make the service of C{twistd signalfd}.

    @param options: The parsed command line.
    """
    maker = options.maker
    if maker is None:
        from txsignalfd._twistd.signallog import SignalLogger, SignalLogService

        stdout = sys.stdout if options.inForeground else None
        logger = SignalLogger(options["format"] == "json", stdout)
        return SignalLogService(options["signals"], logger.receive)
    from twisted.internet import reactor

    twistd: Mapping[str, Any] = options.parent or {}
    if options.isSupervisor:
        with makingService(twistd, options.command):
            workers = workerSettings(options)
            foreground = options.inForeground
            daemon = makeSupervisor(workers, options.settings, foreground, reactor)
            if options.pidfile:
                options["pidfile"] = options.pidfile
            return _finished(daemon, options)
    worker = options.worker
    making = makingService(twistd, options.command)
    if worker is not None:
        making = worker.making()
    with recordingStartup(reactor, options.startup), making:
        factory = PluginFactory(
            maker, getattr(options, "subOptions", None), options.parseAgain
        )
        if worker is None:
            daemon = makeDaemon(
                factory, options.settings, options.inForeground, reactor
            )
        else:
            daemon = makeWorker(
                worker, factory, options.settings, watchedBy(options), reactor
            )
    options.isStarting = False
    daemon.reloads.addParticipant(factory.prepare)
    daemon.reloads.startup = options.startup
    daemon.equip = (options.application or factory).equip
    return _finished(daemon, options)


def _finished(daemon: Daemon, options: Options) -> IService:
    daemon.debug = bool(options.get("debug"))
    if not daemon.debug:
        hideTraceback(options.command)
    # Exit functions run in reverse order: this one runs after most others.
    atexit.register(daemon.exit)
    return daemon
