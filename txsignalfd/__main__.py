# -*- test-case-name: tests.control.test_inspect -*-
"""
C{python -m txsignalfd}: the C{txsignalfd} command.
"""

import faulthandler
import signal
import sys

from txsignalfd._control.inspect import main

if __name__ == "__main__":
    # Restore what -X faulthandler or -X dev found when it was enabled.
    faulthandler.disable()
    # End as cat(1) does when nobody reads the output any more.  What SIGPIPE was
    # before cannot be known (see atStart).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
