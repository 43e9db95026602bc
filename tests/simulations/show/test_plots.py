"""Pictures of measured figures, whatever was measured: a clock's tick is 0 seconds, and memory may be given back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secure_afl.cli.pages import logarithmic
from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import Profile
from secure_afl.simulations.benchmarks import scale as bench_scale
from secure_afl.simulations.experiments import plots
from secure_afl.simulations.overhead.figures import MEMORY
from secure_afl.simulations.overhead.grid import Cell
from secure_afl.simulations.overhead.measure import ALL_PHASES, CLIENT, SERVER
from secure_afl.simulations.overhead.plots import pictures

MEASURED = [(0.0, 0.0), (-1.0, -1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, 1e-9)]
each_measured = pytest.mark.parametrize("measured", MEASURED)


@pytest.mark.slow
@each_measured
@pytest.mark.parametrize("side", ["x", "y"])
def test_an_axis_is_logarithmic_if_anything_on_it_is_positive(
    measured: tuple[float, float], side: str
) -> None:
    from matplotlib.figure import Figure

    panel = Figure().subplots()
    panel.plot(*((measured, (1, 2)) if side == "x" else ((1, 2), measured)))
    logarithmic(panel, side)
    scale = panel.get_xscale() if side == "x" else panel.get_yscale()
    assert scale == ("log" if max(measured) > 0 else "linear")


@pytest.mark.slow
@each_measured
def test_memory_and_time_of_many_clients(measured: tuple[float, float], tmp_path: Path) -> None:
    rows = [
        {
            "clients": clients,
            "length": 50,
            "dropouts": 1,
            "client_seconds": max(value, 0.0),
            "client_bytes_up": 300.0,
            "client_bytes_down": 300.0,
            "server_memory": {"advertising": value, "collecting": value},
        }
        for clients, value in zip((20, 40), measured, strict=True)
    ]
    bench_scale.plot({"sizes": rows, "law": {}}, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@each_measured
def test_training_time(measured: tuple[float, float], tmp_path: Path) -> None:
    records = [
        {
            "dropout": 0,
            "problem": "synthetic-linear",
            "personal": personal,
            "method": method,
            "curve": [(max(seconds, 0.0), 0.5)],
        }
        for personal in (False, True)
        for method, seconds in zip(("local", "fedacnnl (linear)"), measured, strict=True)
    ]
    (file,) = plots.headline({"records": records, "seeds": 1}, tmp_path)
    assert file.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
@each_measured
def test_costs_of_a_grid(measured: tuple[float, float]) -> None:
    """A party whose costs are all 0 has an empty panel."""
    base = Cell(Backend.MASK, 5, 6, 2, 0.2, 5, Suite.X25519, Profile.ACTIVE)
    cells = []
    for cell, value in zip((base, replace(base, clients=7)), measured, strict=True):
        amounts = {(CLIENT, "cpu_seconds"): 1.0, (SERVER, "cpu_seconds"): max(value, 0.0)}
        amounts |= {(party, MEMORY): value for party in (CLIENT, SERVER)}
        costs: list[dict[str, Any]] = [
            {"party": party, "phase": phase, "quantity": quantity, "median": one, "q1": one, "q3": one}
            for (party, quantity), one in amounts.items()
            for phase in (ALL_PHASES, "sharing")
        ]
        cells.append(cell.described() | {"costs": costs})
    drawn = pictures({"base": [base.described()], "cells": cells, "laws": []})
    assert drawn.keys() == {"clients", "phases"}
    assert all(picture.startswith("<?xml") for picture in drawn.values())
