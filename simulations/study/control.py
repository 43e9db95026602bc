"""Disclosure control in a run: what each client's table becomes before its statistics are computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secure_afl.errors import DataError
from secure_afl.simulations.data.dataset import Dataset, Ints
from secure_afl.simulations.data.partition import Part
from secure_afl.tables.codebook import LEAST_ROWS
from secure_afl.tables.disclosure import control_waves, counted
from secure_afl.tables.faults import enumerated


@dataclass(frozen=True, eq=False)
class Coded:
    """data: with the rows as clients code them; parts: with the rows that they contribute. figures: what was changed, by
    client: levels merged, rows that had them, rows left out; None where nothing is controlled.
    """

    data: Dataset
    parts: list[Part]
    figures: dict[str, Any] | None


def coded(data: Dataset, parts: Sequence[Part], waves: int, least_rows: int) -> Coded:
    """The training rows under `disclosure.control`, each client's by itself; of several waves each is a sum of its own.

    Raises `DataError` that names all clients with too few rows.
    """
    layout = data.layout if least_rows > 1 else None
    if layout is None:
        return Coded(data, list(parts), None)
    X, kept_parts, figures, small = data.X.copy(), [], {}, list[str]()
    for part in parts:
        try:
            labels = None if data.target else data.y[part.train]
            found = control_waves(data.X[part.train], layout, labels, least_rows, waves)
        except DataError as error:
            small.append(f"{part.client}: {error}")
            continue
        X[part.train] = found.X
        kept_parts.append(replace(part, train=part.train[found.kept]))
        figures[part.client] = {
            "levels_merged": found.merges,
            "values_changed": found.values,
            "rows_left_out": len(part.train) - len(found.kept),
        }
    if small:
        fault = DataError(small[0])
        for one in small[1:]:
            fault.add_note(one)
        fault.add_note("a site that is too small can join another one, or stay out by the codebook's filter")
        raise fault
    return Coded(replace(data, X=X), kept_parts, figures)


def smallest(data: Dataset, rows: Ints, columns: int) -> dict[str, Any]:
    """The smallest cell of the columns of 0 and 1 of these pooled rows, and how many columns the sum has."""
    named: dict[str, int] = {}
    layout = data.layout
    for variable in layout.variables if layout else ():
        named |= counted(data.X[rows], variable, data.features)
    if data.target:
        named["all rows"] = len(rows)
    else:
        labels = np.bincount(data.y[rows], minlength=len(data.classes))
        named |= {
            f"class {name}": int(count) for name, count in zip(data.classes, labels, strict=True) if count
        }
    cell = min(named, key=lambda name: named[name])
    return {
        "smallest_cell": cell,
        "smallest_cell_rows": named[cell],
        "pooled_rows": len(rows),
        "columns": columns,
    }


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """What was changed, what the sum shows, and warnings. figures: of a run."""
    found = figures["disclosure"]
    told = []
    if changed := found["by_client"]:
        merged, values, left = (
            sum(one[key] for one in changed.values())
            for key in ("levels_merged", "values_changed", "rows_left_out")
        )
        told.append(
            f"least_rows {found['least_rows']}: clients coded {merged} levels that are rare, or single rows out, as other "
            f"levels ({values} values), and left out {left} rows of rare classes"
        )
    cell, rows = found["smallest_cell"], found["smallest_cell_rows"]
    if changed or rows < LEAST_ROWS:
        told.append(f"smallest cell in the sum: {cell}, {rows} rows")
    if changed and found["constant"]:
        told.append(f"constant in the sum, so without a weight: {enumerated(map(repr, found['constant']))}")
    if rows < LEAST_ROWS and not figures["privacy"]:
        told.append(
            f"warning: a cell of fewer than {LEAST_ROWS} rows; the sum may show rows of it word for word"
        )
    if found["pooled_rows"] <= found["columns"] and not figures["privacy"]:
        told.append(
            f"warning: {found['pooled_rows']} pooled rows for {found['columns']} columns; rows can be computed from "
            "such a sum (docs/attacks.md, few-rows)"
        )
    return told
