"""
Programs that start a daemon in other ways than twistd signalfd.
"""
