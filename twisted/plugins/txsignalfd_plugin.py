"""
The twistd command C{signalfd}; all of it is in L{txsignalfd.tap}.
"""

from twisted.application.service import ServiceMaker

signalfd = ServiceMaker(
    "txsignalfd",
    "txsignalfd.tap",
    "Tell of each Unix signal, or run any other command with reload on SIGHUP.",
    "signalfd",
)
