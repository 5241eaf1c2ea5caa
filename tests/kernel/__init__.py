"""
The signals of the whole process, and not of its children.
"""
