# -*- test-case-name: tests.control.test_inspect -*-
"""
The version of the package.
"""

__version__ = "0.1.0"
