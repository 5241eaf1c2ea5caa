"""
The reactors of txsignalfd, for C{--reactor} of twistd, trial and twist.
"""

from twisted.application.reactors import Reactor

signalfd = Reactor(
    "signalfd",
    "txsignalfd.signalfdreactor",
    "the default reactor, with signals and the ends of children by signalfd(2).",
)

asyncio = Reactor(
    "signalfd-asyncio",
    "txsignalfd.asyncioreactor",
    "asyncio based reactor, with signals and the ends of children by signalfd(2).",
)
