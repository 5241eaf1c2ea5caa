"""
The twistd plugin C{signalfd}, implemented in L{txsignalfd.tap}.
"""

import os

from twisted.application.service import ServiceMaker

signalfd = ServiceMaker(
    "txsignalfd",
    "txsignalfd.tap",
    "Log each Unix signal, or run any other plugin with reload on SIGHUP.",
    "signalfd",
)

if os.environ.get("TXSIGNALFD_TWISTD", "0") not in ("", "0"):
    from txsignalfd._start.environment import install

    install()
