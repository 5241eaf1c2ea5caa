"""
The C extension by itself.
"""
