# -*- test-case-name: tests.start.test_reloadable -*-
"""
L{reloadable}: a plugin of twistd that reloads, without C{signalfd} in its command.

Plugin files import this module; see L{txsignalfd._twistd.makers}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import IServiceMaker
from twisted.logger import Logger
from twisted.plugin import IPlugin
from zope.interface import alsoProvides, implementer, providedBy

from txsignalfd._twistd.makers import ReloadableMaker

if TYPE_CHECKING:
    from txsignalfd._twistd.actions import On
    from txsignalfd.tap import Options

_log: Final = Logger("txsignalfd.reloadable")


def reloadable(  # noqa: PLR0913
    serviceMaker: Any,
    *,
    on: On = (),
    drain: float = 30.0,
    stopTimeout: float = 30.0,
    stopFirst: bool = False,
    metrics: str = "",
) -> IServiceMaker:
    """
    Return a plugin of twistd whose service reloads on SIGHUP.

    C{twistd PLUGIN} then does what C{twistd signalfd PLUGIN} does.  The change to a
    plugin file is::

        carbon = reloadable(ServiceMaker("carbon", ...))

    @param serviceMaker: The C{IServiceMaker}.  It keeps its name and its options.
    @param on: See L{txsignalfd.run}, as for the other parameters.  C{twistd signalfd
        PLUGIN} uses them as its defaults.
    """
    settings = {
        "on": on,
        "drain": drain,
        "stopTimeout": stopTimeout,
        "stopFirst": stopFirst,
        "metrics": metrics,
    }
    return ReloadablePlugin(serviceMaker, settings)


@implementer(IPlugin, IServiceMaker)
class ReloadablePlugin(ReloadableMaker):
    """
    A plugin of twistd that reloads.
    """

    def __init__(
        self,
        maker: Any,
        settings: dict[str, Any],
        arguments: Sequence[str] = (),
        prefix: str = "",
    ) -> None:
        """
        @param arguments: Arguments of C{signalfd}, which override the settings.
        @param prefix: The text before the command in messages.
        """
        super().__init__(maker, settings)
        self._arguments = arguments
        self._command = f"{prefix}twistd {self.original.tapname}"
        alsoProvides(self, *providedBy(self.original))

    def options(self) -> Options:
        """
        Return options for the command line of the plugin.
        """
        from txsignalfd._start.implied import ImpliedOptions

        return ImpliedOptions(self, self._arguments, self._command)

    def makeService(self, options: Any) -> Any:
        """
        Make the service, which reloads if L{options} has made its options.
        """
        from txsignalfd import tap

        if isinstance(options, tap.Options):
            return tap.makeService(options)
        # A program that has other options knows nothing of signals.
        _log.warn(
            "{plugin} does not reload: its options are not those of its plugin",
            plugin=self.tapname,
        )
        return self.original.makeService(options)
