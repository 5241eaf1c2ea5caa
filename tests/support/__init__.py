"""
Code that tests share.
"""
