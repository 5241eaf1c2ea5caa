"""
Signals as ordinary events of a Twisted reactor.
"""

from txsignalfd import lowlevel
from txsignalfd._mask import SignalAlreadyWatched, SignalNotWatchable
from txsignalfd._spawn import spawning
from txsignalfd.children import ChildReaper
from txsignalfd.description import Description
from txsignalfd.descriptor import SignalDescriptor, WatchedByParent
from txsignalfd.dispatcher import DispatcherClosed, SignalDispatcher, dispatcherFor
from txsignalfd.lowlevel import SignalfdUnavailable
from txsignalfd.reactorsignals import ReactorSignals
from txsignalfd.registration import Overlap, Registration
from txsignalfd.service import SignalService
from txsignalfd.siginfo import Child, Sender, SigInfo
from txsignalfd.waiting import SignalStream

__all__ = [
    "Child",
    "ChildReaper",
    "Description",
    "DispatcherClosed",
    "Overlap",
    "ReactorSignals",
    "Registration",
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
