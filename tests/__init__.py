"""
Tests for txsignalfd: real signals, real children, real reactors.
"""
