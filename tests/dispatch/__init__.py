"""
From records to handlers.
"""
