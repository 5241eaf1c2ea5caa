"""
The layers of the package.
"""

from __future__ import annotations

from typing import Final

#: The lowest first: a package imports only from layers below its own.  Imports
#: inside a package form no cycle.  C{__init__} is what users import from.
LAYERS: Final = [
    ["_version"],
    ["_native"],
    ["siginfo"],
    ["lowlevel"],
    ["_proc"],
    ["_kernel"],
    ["_dispatch"],
    ["_children"],
    ["eventfd", "testing"],
    ["reactorsignals", "service"],
    ["asyncioreactor", "signalfdreactor"],
    ["_reload"],
    ["_workers"],
    ["_twistd"],
    ["tap"],
    ["_start"],
    ["_control"],
    ["__init__"],
    ["__main__"],
]
