"""
The C extension, built by cffi in API mode, and the names of signals and codes.

C{extension} offers the functions of the C files as C{lib}, and cffi as C{ffi};
C{native.h} says what is in which file.  Invariant: nothing here decides which
signal is watched, or by whom.
"""
