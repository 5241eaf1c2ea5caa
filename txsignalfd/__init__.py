"""
Signals as ordinary events of a Twisted reactor.

Each public name is imported when it is first used (PEP 562), so that a program
that needs only L{lowlevel}, or C{python -m txsignalfd}, does not import Twisted.
"""

from importlib import import_module

from txsignalfd import _version

__version__ = _version.__version__

# Type checkers treat this name as true.  typing.TYPE_CHECKING would import typing,
# which takes longer than everything else that the txsignalfd command imports.
TYPE_CHECKING = False

if TYPE_CHECKING:
    # The public names.  Type checkers follow these imports; at run time _homes()
    # finds out from them where each name is.
    from txsignalfd import lowlevel as lowlevel
    from txsignalfd._children.reaper import ChildReaper as ChildReaper
    from txsignalfd._dispatch.description import Description as Description
    from txsignalfd._dispatch.dispatcher import (
        DispatcherClosed as DispatcherClosed,
        SignalDispatcher as SignalDispatcher,
        dispatcherFor as dispatcherFor,
    )
    from txsignalfd._dispatch.handlers import Registration as Registration
    from txsignalfd._dispatch.runs import Overlap as Overlap
    from txsignalfd._dispatch.streams import SignalStream as SignalStream
    from txsignalfd._kernel.descriptor import SignalDescriptor as SignalDescriptor
    from txsignalfd._kernel.fork import WatchedByParent as WatchedByParent
    from txsignalfd._kernel.mask import (
        SignalAlreadyWatched as SignalAlreadyWatched,
        SignalNotWatchable as SignalNotWatchable,
    )
    from txsignalfd._kernel.spawn import spawning as spawning
    from txsignalfd._reload.service import (
        NotServing as NotServing,
        ReloadService as ReloadService,
    )
    from txsignalfd._reload.transaction import Reload as Reload
    from txsignalfd._start.reacting import react as react
    from txsignalfd._start.reloadable import reloadable as reloadable
    from txsignalfd._start.running import run as run
    from txsignalfd._workers.membership import workerNumber as workerNumber
    from txsignalfd.eventfd import (
        CounterFull as CounterFull,
        EventDescriptor as EventDescriptor,
        EventDescriptorClosed as EventDescriptorClosed,
        EventfdUnavailable as EventfdUnavailable,
    )
    from txsignalfd.lowlevel import SignalfdUnavailable as SignalfdUnavailable
    from txsignalfd.reactorsignals import ReactorSignals as ReactorSignals
    from txsignalfd.service import SignalService as SignalService
    from txsignalfd.siginfo import Child as Child, Sender as Sender, SigInfo as SigInfo
else:  # a type checker that saw __getattr__ would accept any name
    _found: dict[str, str] = {}

    def _homes() -> dict[str, str]:
        """
        Return the module of each public name, from the compiled imports above.

        They are in the bytecode, which also a program without its sources has.
        """
        if not _found:
            import dis

            module = ""
            for each in dis.get_instructions(__spec__.loader.get_code(__name__)):
                if each.opname == "IMPORT_NAME":
                    module = each.argval
                elif each.opname == "IMPORT_FROM" and module.startswith(__name__):
                    _found[each.argval] = module
            del _found["_version"]
        return _found

    def __getattr__(name: str) -> object:
        if name == "__all__":
            return sorted(_homes())
        home = _homes().get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if home == __name__:
            return import_module(f"{home}.{name}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return ["__all__", "__doc__", "__file__", "__name__", "__path__", *_homes()]
