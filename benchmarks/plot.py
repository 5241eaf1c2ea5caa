"""
The picture of the results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measuring import Comparison, percentile99

OURS, OTHERS = "#c0392b", "#8a9ba8"


def draw(trip: Comparison, bursts: Comparison, path: Path) -> None:
    """
    @param trip: The round trip.
    @param bursts: The bursts.
    @param path: Where the SVG goes.
    """
    import matplotlib as mpl

    mpl.use("svg")
    # Text stays text: the file is a tenth as large, and can be searched.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "txsignalfd"})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.4), width_ratios=(3, 2), layout="constrained"
    )
    names = sorted(trip.turns[0], key=lambda name: -trip.spread(name)[1])
    _bars(left, trip, names, {"txsignalfd"})
    worst = [percentile99(trip.samples(name)) for name in names]
    left.plot(worst, names, "|", color="#333333", markersize=9)
    left.set_title(f"{trip.name} (µs; |: 99th percentile)", fontsize=10)
    ways = ["three attributes", "a plain handler", "C"]
    _bars(right, bursts, ways, {*ways} - {"C"})
    right.set_title(f"{bursts.name} ({bursts.unit})", fontsize=10)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(left=0)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def _bars(axes: Any, compared: Comparison, names: list[str], ours: set[str]) -> None:
    spreads = [compared.spread(name) for name in names]
    axes.barh(
        names,
        [middle for _, middle, _ in spreads],
        xerr=[[m - low for low, m, _ in spreads], [high - m for _, m, high in spreads]],
        color=[OURS if name in ours else OTHERS for name in names],
        ecolor="#333333",
    )
