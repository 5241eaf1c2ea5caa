"""
The command twistd signalfd.
"""
