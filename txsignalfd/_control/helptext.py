# -*- test-case-name: tests.control.test_command -*-
"""
The output of C{txsignalfd --help}, as L{parser <txsignalfd._control.arguments.parser>}
would print it.

A test compares them, but for the spaces.  The import of argparse alone takes as long
as the start of Python.
"""

HELP = """\
usage: txsignalfd [-h] [--version] COMMAND ...

Ask a daemon that twistd signalfd runs, supervise a program, or inspect a
process.

positional arguments:
  COMMAND
    reload     reload the service, and wait until the new one serves
    stop       stop the daemon, and wait until it has ended
    rotate     rotate the log files
    upgrade    replace the supervisor's program, and reload its workers
    status     show what the daemon is doing
    check      make the service of a command line of twistd, without starting
               it
    supervise  run a Python program in workers, and reload it
    inspect    show what a process does with each signal

options:
  -h, --help   show this help message and exit
  --version    show program's version number and exit

Exit status: 0 done; 1 refused or failed, with the reason in one line; 2 the
target cannot be asked. txsignalfd PID inspects a process.
"""
