"""Runs whose figures on test rows come out of a secure sum."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from secure_afl.analytic.evaluation import Classified, Measured
from secure_afl.errors import SettingError
from secure_afl.models.evaluation import BINS
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.report import Run
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings

BOOK = """
[columns]
dose = { kind = "number", range = [0, 10] }
[outcome]
"""
OUTCOMES = {
    "class": 'kind = "classes"\ncolumn = "well"\nclasses = ["no", "yes"]\n',
    "number": 'kind = "number"\ncolumn = "change"\nrange = [-50, 50]\nunit = "kg"\n',
}


def learned(folder: Path, outcome: str, least_rows: int) -> Run:
    draws = np.random.default_rng(3)
    lines = ["site,dose,change,well"]
    for at in range(240):
        dose = draws.uniform(0, 10)
        change = 1.5 * dose - 3 + draws.normal(0, 4)
        lines.append(f"{'abc'[at % 3]},{dose:.17g},{change:.17g},{('no', 'yes')[change > 6]}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "codebook.toml").write_text(BOOK + OUTCOMES[outcome])
    rows = dataset.load(str(folder / "rows.csv"), codebook=folder / "codebook.toml")
    settings = Settings(federated_evaluation=True, least_rows=least_rows)
    return run(rows, partition(rows, "site", None, 0), settings, lambda phase: None)


def test_counts_in_a_secure_sum_are_those_of_the_pooled_rows(tmp_path: Path) -> None:
    result = learned(tmp_path, "class", 1)
    assert result.evaluated
    found, exact = result.evaluated.figures, result.held_out
    assert isinstance(found, Classified)
    assert isinstance(exact, Classified)
    assert (found.rows, found.accuracy, found.majority, found.balanced_accuracy) == (
        exact.rows,
        exact.accuracy,
        exact.majority,
        exact.balanced_accuracy,
    )
    assert [(one.name, one.rows, one.recall, one.precision) for one in found.by_class] == [
        (one.name, one.rows, one.recall, one.precision) for one in exact.by_class
    ]
    assert found.auc is not None
    assert exact.auc is not None
    assert abs(found.auc - exact.auc) <= max(result.evaluated.auc_error) + 1e-12 < 0.1
    assert abs(found.brier - exact.brier) < 2 / BINS
    assert result.evaluated.survivors == ("a", "b", "c")
    assert f"in {BINS} bins" in result.evaluated.notes()[0]
    assert result.figures["survivors"] == [
        "a",
        "b",
        "c",
    ]  # the model's sum is still that which the costs are of
    assert "collecting" in result.costs


def test_errors_in_a_secure_sum_are_those_of_the_pooled_rows(tmp_path: Path) -> None:
    result = learned(tmp_path, "number", 1)
    assert result.evaluated
    found, exact = result.evaluated.figures, result.held_out
    assert isinstance(found, Measured)
    assert isinstance(exact, Measured)
    for name in ("rows", "rmse", "mae", "guess_rmse", "r2"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-8)


def test_the_command_shows_where_its_figures_are_from(tmp_path: Path) -> None:
    learned(tmp_path, "class", 5)
    files = ["--json", str(tmp_path / "run.json"), "--html", str(tmp_path / "run.html")]
    rows = ["--data", str(tmp_path / "rows.csv"), "--codebook", str(tmp_path / "codebook.toml")]
    done = CliRunner().invoke(
        main.app, ["run", *rows, *files, "--federated-evaluation"], env={"COLUMNS": "160"}
    )
    assert done.exit_code == 0, done.output
    for text in (
        "nobody saw the figures of one client",
        "balanced accuracy",
        "guessing the largest class",
        "bins",
        "bytes more, in a session of their own",
    ):
        assert text in " ".join(done.output.split())
        assert text in (tmp_path / "run.html").read_text()
    said = json.loads((tmp_path / "run.json").read_text())["federated_evaluation"]
    assert said["least_rows"] == 5
    assert said["survivors"] == ["a", "b", "c"]
    assert 0 < said["auc"] < 1
    assert said["upload_per_client"] > 2 * 4 * BINS


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epsilon": 1.0}, "needs no epsilon"),
        ({"backend": Backend.CKKS}, "needs exact sums"),
        ({"backend": Backend.BFV, "release": "weights"}, "needs exact sums that are opened"),
    ],
)
def test_what_no_counts_come_out_of_is_refused(settings: dict[str, object], text: str) -> None:
    with pytest.raises(SettingError, match=text):
        Settings(federated_evaluation=True, **settings)  # type: ignore[arg-type]
