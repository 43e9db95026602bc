"""All figures of a report: measurements of every cell, repeat by repeat, and results from the medians."""

import csv
import io
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from secure_afl.protocol.session.parameters import Profile
from secure_afl.simulations.benchmarks.masking import machine
from secure_afl.simulations.overhead import laws, memory
from secure_afl.simulations.overhead.grid import Axes, Cell
from secure_afl.simulations.overhead.measure import (
    ALL_PHASES,
    CLIENT,
    HOLDER,
    SERVER,
    Cost,
    Session,
    session,
)

FORMAT = "secure-afl overhead 1"
MEMORY = "peak_memory_bytes"
QUANTITIES = (*Cost._fields, MEMORY)
Figures = dict[str, Any]
Samples = dict[tuple[str, str, str], list[float]]
"""One number per repeat, by party, phase and quantity."""
Watch = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure. command: reproduces this report. full: see `Axes.cells`."""

    axes: Axes
    full: bool
    repeats: int
    command: str

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells, in order."""
        return self.axes.cells(full=self.full)

    @property
    def memory_repeats(self) -> int:
        """Number of memory measurements per cell: one, as memory varies by less than 1 %."""
        return int(memory.measurable())

    @property
    def steps(self) -> int:
        """How often `measure` calls its watch."""
        backends = len(self.axes.backends)
        return backends + len(self.cells) * (self.repeats + self.memory_repeats)


def measure(plan: Plan, watch: Watch) -> Figures:
    """Measure all figures. Raises `WrongSumError`, without a report, if a sum is wrong."""
    began, started = datetime.now(UTC), time.perf_counter()
    for backend in plan.axes.backends:
        watch(f"warming up: {backend}")
        session(plan.axes.base(backend))  # loading modules at first use is not a cost of a session
    samples: dict[Cell, Samples] = {cell: defaultdict(list) for cell in plan.cells}
    # Repeats are the outermost loop: load on the machine affects all cells alike and shows in their spread.
    for repeat in range(plan.repeats):
        for cell in plan.cells:
            watch(f"{repeat + 1} of {plan.repeats}: {shown(cell)}")
            add(samples[cell], session(cell))
    for repeat in range(plan.memory_repeats):
        for cell in plan.cells:
            watch(f"memory, {repeat + 1} of {plan.memory_repeats}: {shown(cell)}")
            for party, peaks in memory.peaks(cell).items():
                for phase, most in peaks.items():
                    samples[cell][party, phase, MEMORY].append(most)
    rows = [cell.described() | {"costs": costs(samples[cell])} for cell in plan.cells]
    return {
        "format": FORMAT,
        "began": began.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - started,
        "command": plan.command,
        "machine": machine("tenseal", "scipy"),
        "repeats": plan.repeats,
        "memory_repeats": plan.memory_repeats,
        "base": [plan.axes.base(backend).described() for backend in plan.axes.backends],
        "cells": rows,
        "laws": _laws(rows, [plan.axes.base(backend) for backend in plan.axes.backends], plan.axes),
    }


def shown(cell: Cell) -> str:
    """A short description of a cell."""
    words = f"{cell.backend}, {cell.clients} clients, {cell.values:,} values, {cell.dropout:.0%} dropouts"
    return words + (f", {cell.profile.value}" if cell.profile else "")


def add(samples: Samples, costs: Session) -> None:
    """Add a repeat."""
    for party, phases in costs.items():
        for phase, cost in phases.items():
            for quantity, value in cost._asdict().items():
                samples[party, phase, quantity].append(value)


def costs(samples: Samples) -> list[dict[str, Any]]:
    """A row for each party, phase and quantity: all values, their median and quartiles."""
    rows = []
    for (party, phase, quantity), values in samples.items():
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
        rows.append(
            {
                "party": party,
                "phase": phase,
                "quantity": quantity,
                "median": middle,
                "q1": low,
                "q3": high,
                "values": list(values),
            }
        )
    return rows


def found(
    cell: Mapping[str, Any], party: str, quantity: str, phase: str = ALL_PHASES
) -> dict[str, Any] | None:
    """The row of a party's cost in a cell of the figures, if it has one."""
    for row in cell["costs"]:
        if (row["party"], row["phase"], row["quantity"]) == (party, phase, quantity):
            one: dict[str, Any] = row
            return one
    return None


def bases(figures: Figures) -> list[Mapping[str, Any]]:
    """The measured cells where the axes meet."""
    return [
        next(cell for cell in figures["cells"] if all(cell[key] == value for key, value in base.items()))
        for base in figures["base"]
    ]


def phases(cell: Mapping[str, Any]) -> list[str]:
    """Phases of all parties of a cell, in their order."""
    order = dict.fromkeys(
        row["phase"] for party in (SERVER, CLIENT) for row in cell["costs"] if row["party"] == party
    )
    return [phase for phase in order if phase != ALL_PHASES]


# ---- laws ----------------------------------------------------------------------------------------

_LAW_QUANTITIES = ("cpu_seconds", "bytes_up", "bytes_down", MEMORY)


def _laws(rows: Sequence[dict[str, Any]], bases: Sequence[Cell], axes: Axes) -> list[dict[str, Any]]:
    """A law for each backend, profile, axis, party and quantity with enough points."""
    said: list[dict[str, Any]] = []
    for base in bases:
        for profile in axes.profiles if base.masked else (None,):
            for axis, along in _AXES.items():
                cells = [row for row in rows if _on(row, base, profile, along)]
                for party in (CLIENT, SERVER, HOLDER):
                    form = _form(axis, party, base, profile)
                    for quantity in _LAW_QUANTITIES:
                        said.extend(_law(cells, base, profile, axis, along, party, quantity, form))
    return said


# What an axis is called, the parameters that vary along it, and the one that laws are in.
_AXES = {"clients": ("clients",), "values": ("features", "classes", "values"), "dropout": ("dropout",)}


def _on(row: Mapping[str, Any], base: Cell, profile: Profile | None, along: Sequence[str]) -> bool:
    """Whether a cell differs from the base at most along the axis and in the profile. Laws of sparse graphs exclude cells
    with a complete graph, as small cohorts have.
    """
    fixed = {
        key: value for key, value in base.described().items() if key not in (*along, "neighbours", "profile")
    }
    same = all(row[key] == value for key, value in fixed.items())
    complete = row["neighbours"] == row["clients"] - 1
    return same and row["profile"] == profile and (profile is not Profile.SEMI_HONEST or not complete)


def _form(axis: str, party: str, base: Cell, profile: Profile | None) -> laws.Form:
    if axis != "clients":
        return laws.VALUES if axis == "values" else laws.DROPOUTS
    if not base.masked or party == HOLDER:
        return laws.LINEAR
    if profile is Profile.ACTIVE:
        return laws.LINEAR if party == CLIENT else laws.COMPLETE_SERVER
    return laws.SPARSE_CLIENT if party == CLIENT else laws.SPARSE_SERVER


def _law(
    cells: Sequence[Mapping[str, Any]],
    base: Cell,
    profile: Profile | None,
    axis: str,
    along: Sequence[str],
    party: str,
    quantity: str,
    form: laws.Form,
) -> Iterator[dict[str, Any]]:
    points = sorted(
        (cell[along[-1]], row["median"])
        for cell in cells
        if (row := found(cell, party, quantity)) is not None
    )
    x, y = [float(at) for at, _ in points], [median for _, median in points]
    if (law := laws.fit(form, x, y)) is None:
        return
    said: dict[str, Any] = {
        "backend": base.backend,
        "profile": profile and profile.value,
        "axis": axis,
        "party": party,
        "quantity": quantity,
        "form": str(form),
        "coefficients": law.coefficients,
        "largest_relative_error": law.error,
        "r2": law.r2,
        "points": law.points,
        "lowest": law.lowest,
        "highest": law.highest,
    }
    if axis == "clients":
        low, high = laws.extrapolated(form, x, y, laws.FAR)
        said["extrapolation"] = {
            "clients": laws.FAR,
            "beyond": laws.FAR / law.highest,
            "value": law(laws.FAR),
            "low": low,
            "high": high,
        }
    yield said


# ---- CSV -----------------------------------------------------------------------------------------

CELL_COLUMNS = (
    "backend",
    "clients",
    "features",
    "classes",
    "values",
    "dropout",
    "width",
    "suite",
    "profile",
    "neighbours",
)
COST_COLUMNS = ("party", "phase", "quantity", "median", "q1", "q3")


def to_csv(figures: Figures) -> str:
    """One line for each cost of each cell, peers included: the JSON's content without single repeats and laws."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CELL_COLUMNS, *COST_COLUMNS, "repeats"])
    for cell in [*figures["cells"], *figures.get("peers", {}).get("cells", [])]:
        for row in cell["costs"]:
            writer.writerow(
                [
                    *(cell[one] for one in CELL_COLUMNS),
                    *(row[one] for one in COST_COLUMNS),
                    len(row["values"]),
                ]
            )
    return text.getvalue()
