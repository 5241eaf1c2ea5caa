"""
The results beside their targets: as a table, and as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring import Comparison, Row, percentile99


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _cells(row: Row) -> list[str]:
    low, middle, high = map(_number, row.measured)
    spread = middle if low == high else f"{middle} ({low}-{high})"
    if row.most is None:
        return [row.what, spread, "", ""]
    passed = "yes" if row.measured[1] <= row.most else "no"
    return [row.what, spread, f"{row.most:g}", passed]


def table(lines: Iterable[Row]) -> str:
    """
    Return a table in reStructuredText.
    """
    cells = [["what", "measured (middle half)", "target", "pass"]]
    cells += map(_cells, lines)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join([rule, text[0].rstrip(), rule, *map(str.rstrip, text[1:]), rule])


def times(comparisons: Iterable[Comparison]) -> str:
    """
    Return the results of each contestant, without a comparison.
    """
    text = []
    for comparison in comparisons:
        text.append(f"{comparison.name} ({comparison.unit})")
        names = comparison.turns[0]
        for name in sorted(names, key=lambda each: comparison.spread(each)[1]):
            low, middle, high = (f"{value:.2f}" for value in comparison.spread(name))
            worst = f"{percentile99(comparison.samples(name)):.2f}"
            text.append(f"  {name:32} {middle:>9} ({low} to {high}), 99 %: {worst}")
    return "\n".join(text)


def save(
    path: Path, machine: dict[str, object], comparisons: Iterable[Comparison]
) -> None:
    """
    Write the machine and every sample.
    """
    data = {
        "machine": machine,
        "comparisons": [
            {
                "name": each.name,
                "unit": each.unit,
                "turns": [
                    {name: [float(f"{n:.4g}") for n in turn[name]] for name in turn}
                    for turn in each.turns
                ],
            }
            for each in comparisons
        ],
    }
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
