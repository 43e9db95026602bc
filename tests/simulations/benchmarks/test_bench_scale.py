"""The benchmark of many clients makes real sums, and its law is that of its figures."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_afl.crypto.hpke import Suite
from secure_afl.simulations.benchmarks import scale
from secure_afl.simulations.benchmarks.scale import Scale
from secure_afl.simulations.cli.main import app


@pytest.mark.slow
def test_a_small_scale(tmp_path: Path) -> None:
    """Every session compares its sum with that of the survivors."""
    sizes = [Scale(n, 50, 0.05, 0.05, Suite.X25519) for n in (40, 20)]
    seen: list[str] = []
    figures = scale.measure(sizes, seen.append)
    assert len(seen) == scale.steps(sizes)
    small, large = figures["sizes"]
    assert (small["clients"], large["clients"]) == (20, 40)
    assert (small["dropouts"], large["dropouts"]) == (1, 2)
    for row in figures["sizes"]:
        assert row["client_seconds"] > 0
        assert row["client_bytes_up"] > 50 * 4
        assert sum(row["phase_wall_seconds"].values()) <= row["wall_seconds"]
        assert list(row["server_memory"]) == [
            "advertising",
            "sharing",
            "confirming",
            "collecting",
            "unmasking",
        ]
    scale.tables(figures)
    scale.plot(figures, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes()[:4] == b"\x89PNG"


def test_a_law_is_fitted() -> None:
    rows = [{"clients": 2**k, "client_seconds": 0.5 + 0.25 * k + 0.01 * 2**k} for k in (3, 5, 8, 9)]
    law = {"base_s": 0.5, "per_doubling_s": 0.25, "per_client_s": 0.01, "r2": 1.0}
    assert scale._law(rows) == pytest.approx(law)
    assert scale._law(rows[:3]) == {}


def test_the_command_refuses_what_it_cannot_write() -> None:
    result = CliRunner().invoke(app, ["bench", "scale", "--clients", "20", "--plot", "/no/such/folder/a.png"])
    assert result.exit_code == 2
    assert "cannot write into" in result.output


def test_a_machine_that_is_too_small_is_told_before_it_is_filled(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        ["bench", "scale", "--clients", "1000000", "--json", str(tmp_path / "a.json")],
        terminal_width=200,
    )
    assert result.exit_code == 1
    assert "GB of free memory for 1,000,000 clients in one process" in " ".join(result.output.split())
    assert not (tmp_path / "a.json").exists()
