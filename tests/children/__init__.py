"""
The ends of child processes.
"""
