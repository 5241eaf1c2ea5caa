# -*- test-case-name: tests.start.test_reloadable -*-
"""
L{ReloadableMaker}: a service maker, and how its service reloads.

A plugin file makes one, and twistd imports every plugin file.  So this module
imports nothing that twistd has not imported already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from txsignalfd._twistd.settings import Settings


class ReloadableMaker:
    """
    A C{IServiceMaker}, and the settings of the daemon that runs its service.

    Other attributes are those of the C{IServiceMaker}.

    @ivar original: The C{IServiceMaker}.
    @ivar arguments: The arguments of
        L{checkSettings <txsignalfd._twistd.settings.checkSettings>}.
    """

    def __init__(self, maker: Any, settings: dict[str, Any]) -> None:
        """
        @param maker: The C{IServiceMaker}.  One that reloads already passes its
            settings on.
        @param settings: The arguments of
            L{checkSettings <txsignalfd._twistd.settings.checkSettings>}.
        """
        self.original: Any = originalOf(maker)
        inherited = maker.arguments if isinstance(maker, ReloadableMaker) else {}
        self.arguments: dict[str, Any] = {**inherited, **settings}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    @property
    def settings(self) -> Settings:
        """
        The settings.

        @raise ValueError: For an unknown signal or action, or a wrong time.
        """
        from txsignalfd._twistd.settings import checkSettings

        return checkSettings(**self.arguments)


def originalOf(maker: Any) -> Any:
    """
    Return the C{IServiceMaker} that a L{ReloadableMaker} stands for, or the argument.
    """
    return maker.original if isinstance(maker, ReloadableMaker) else maker
