"""
What /proc says.
"""
