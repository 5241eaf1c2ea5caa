"""
The twistd plugin C{signalfd}, implemented in L{txsignalfd.tap}.
"""

from twisted.application.service import ServiceMaker

signalfd = ServiceMaker(
    "txsignalfd",
    "txsignalfd.tap",
    "Log each Unix signal, or run any other plugin with reload on SIGHUP.",
    "signalfd",
)
