"""Compare two reports: which medians differ by more than the spread of both runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secure_afl.errors import DataError
from secure_afl.simulations.overhead.figures import CELL_COLUMNS, FORMAT, Figures
from secure_afl.simulations.overhead.measure import ALL_PHASES

_Key = tuple[Any, ...]
RESOLUTION = 0.05
"""Tolerance for times and memory, relative to the earlier median; byte counts must match."""

_COUNTED = ("bytes_up", "bytes_down")


def read(file: Path) -> Figures:
    """An earlier report's JSON. Raises `DataError`."""
    try:
        figures = json.loads(file.read_text())
        if figures["format"] != FORMAT:
            raise ValueError
        _medians(figures)
        figures["machine"]["versions"], figures["command"], figures["began"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{file}: expected the figures of a report ({FORMAT!r}), this file has none"
        ) from None
    found: Figures = figures
    return found


def compare(now: Figures, earlier: Figures) -> dict[str, Any]:
    """Compare what both reports measured, over all phases. `differ`: medians further apart than both interquartile ranges
    together and than `RESOLUTION`. notes: other differences.
    """
    ours, theirs = _medians(now), _medians(earlier)
    common = [key for key in ours if key in theirs]
    differ = []
    for key in common:
        here, there = ours[key], theirs[key]
        spread = here["q3"] - here["q1"] + there["q3"] - there["q1"]
        if key[-1] not in _COUNTED:
            spread = max(spread, RESOLUTION * there["median"])
        if abs(here["median"] - there["median"]) > spread:
            named = dict(zip((*CELL_COLUMNS, "party", "quantity"), key, strict=True))
            differ.append(named | {"median": here["median"], "earlier": there["median"], "spread": spread})
    return {
        "began": earlier["began"],
        "command": earlier["command"],
        "compared": len(common),
        "only_now": len(ours) - len(common),
        "only_earlier": len(theirs) - len(common),
        "differ": differ,
        "notes": _notes(now, earlier),
    }


def _medians(figures: Figures) -> dict[_Key, Mapping[str, float]]:
    rows: Sequence[Any] = [*figures["cells"], *figures.get("peers", {}).get("cells", [])]
    return {
        (*(cell[one] for one in CELL_COLUMNS), row["party"], row["quantity"]): {
            one: float(row[one]) for one in ("median", "q1", "q3")
        }
        for cell in rows
        for row in cell["costs"]
        if row["phase"] == ALL_PHASES
    }


def _notes(now: Figures, earlier: Figures) -> list[str]:
    here, there = now["machine"], earlier["machine"]
    flat = [{**one, **one["versions"]} for one in (here, there)]
    return [
        f"{name}: {flat[0].get(name)} now, {flat[1].get(name)} earlier"
        for name in sorted(set(flat[0]) | set(flat[1]))
        if name != "versions" and flat[0].get(name) != flat[1].get(name)
    ]
