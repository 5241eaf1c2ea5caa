# -*- test-case-name: tests.control.test_inspect -*-
"""
C{python -m txsignalfd}: the C{txsignalfd} command.
"""

import faulthandler
import signal
import sys

from txsignalfd._control.command import main

if __name__ == "__main__":
    # Restore the actions that -X faulthandler or -X dev has replaced.
    faulthandler.disable()
    # End silently, as cat(1) does, when the reader closes the pipe.  The inherited
    # action of SIGPIPE is unknown (see atStart), so it cannot be restored.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
