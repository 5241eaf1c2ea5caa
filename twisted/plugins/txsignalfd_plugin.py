"""
The twistd command C{signalfd}; all of it is in L{txsignalfd.tap}.
"""

from twisted.application.service import ServiceMaker

signalfd = ServiceMaker(
    "txsignalfd",
    "txsignalfd.tap",
    "Watch Unix signals, and tell of each what it was and who sent it.",
    "signalfd",
)
