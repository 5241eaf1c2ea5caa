"""
Signals as ordinary events of a Twisted reactor.

Each name is imported when it is first asked for (PEP 562), so that C{python -m
txsignalfd}, and who wants L{lowlevel} alone, need not wait for Twisted.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txsignalfd import lowlevel
    from txsignalfd._children.reaper import ChildReaper
    from txsignalfd._dispatch.description import Description
    from txsignalfd._dispatch.dispatcher import (
        DispatcherClosed,
        SignalDispatcher,
        dispatcherFor,
    )
    from txsignalfd._dispatch.registration import Overlap, Registration
    from txsignalfd._dispatch.waiting import SignalStream
    from txsignalfd._kernel.descriptor import SignalDescriptor
    from txsignalfd._kernel.fork import WatchedByParent
    from txsignalfd._kernel.mask import SignalAlreadyWatched, SignalNotWatchable
    from txsignalfd._kernel.spawn import spawning
    from txsignalfd._reload.service import NotServing, ReloadService
    from txsignalfd._reload.transaction import Reload
    from txsignalfd.eventfd import (
        CounterFull,
        EventDescriptor,
        EventDescriptorClosed,
        EventfdUnavailable,
    )
    from txsignalfd.lowlevel import SignalfdUnavailable
    from txsignalfd.reactorsignals import ReactorSignals
    from txsignalfd.service import SignalService
    from txsignalfd.siginfo import Child, Sender, SigInfo
else:  # for with this a checker would take every name for one of ours

    def __getattr__(name: str) -> object:
        if name == "lowlevel":
            return import_module("txsignalfd.lowlevel")
        if name not in _homes:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"txsignalfd.{_homes[name]}"), name)
        globals()[name] = value
        return value


__all__ = [
    "Child",
    "ChildReaper",
    "CounterFull",
    "Description",
    "DispatcherClosed",
    "EventDescriptor",
    "EventDescriptorClosed",
    "EventfdUnavailable",
    "NotServing",
    "Overlap",
    "ReactorSignals",
    "Registration",
    "Reload",
    "ReloadService",
    "Sender",
    "SigInfo",
    "SignalAlreadyWatched",
    "SignalDescriptor",
    "SignalDispatcher",
    "SignalNotWatchable",
    "SignalService",
    "SignalStream",
    "SignalfdUnavailable",
    "WatchedByParent",
    "dispatcherFor",
    "lowlevel",
    "spawning",
]

#: Where each name is, as a checker of types reads it above.
_homes = {
    name: module
    for module, names in {
        "_kernel.fork": ["WatchedByParent"],
        "_kernel.mask": ["SignalAlreadyWatched", "SignalNotWatchable"],
        "_kernel.spawn": ["spawning"],
        "_children.reaper": ["ChildReaper"],
        "_dispatch.description": ["Description"],
        "_kernel.descriptor": ["SignalDescriptor"],
        "_dispatch.dispatcher": [
            "DispatcherClosed",
            "SignalDispatcher",
            "dispatcherFor",
        ],
        "eventfd": [
            "CounterFull",
            "EventDescriptor",
            "EventDescriptorClosed",
            "EventfdUnavailable",
        ],
        "lowlevel": ["SignalfdUnavailable"],
        "reactorsignals": ["ReactorSignals"],
        "_dispatch.registration": ["Overlap", "Registration"],
        "_reload.service": ["NotServing", "ReloadService"],
        "service": ["SignalService"],
        "siginfo": ["Child", "Sender", "SigInfo"],
        "_dispatch.waiting": ["SignalStream"],
        "_reload.transaction": ["Reload"],
    }.items()
    for name in names
}


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
