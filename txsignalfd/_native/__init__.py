"""
The C extension, built by cffi in API mode, and what it knows by itself.

C{extension} has the functions of the C files as C{lib}, and C{ffi}; L{names
<txsignalfd._native.names>} reads the names of signals and codes from it.  C{build}
compiles it and is never imported by a program.  Nothing here decides who may
watch which signal.
"""
