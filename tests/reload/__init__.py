"""
A new generation of a service while it serves.
"""
