"""
The txsignalfd command.
"""
