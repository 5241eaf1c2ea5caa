# -*- test-case-name: tests.control.test_inspect -*-
"""
C{python -m txsignalfd}: the C{txsignalfd} command.
"""

from txsignalfd._control.command import run

if __name__ == "__main__":
    run()
