"""Runs that learn a number."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from secure_afl.errors import DataError
from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings

BOOK = """
[columns]
dose = { kind = "number", range = [0, 10], unit = "mg" }
sex = { kind = "category", levels = ["f", "m"] }
[outcome]
kind = "number"
column = "change"
range = [-50, 50]
unit = "kg"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draws = np.random.default_rng(3)
    dose, sex, noise = draws.uniform(0, 10, 240), draws.integers(0, 2, 240), draws.normal(0, 2, 240)
    lines = ["site,dose,sex,change"]
    for at in range(240):
        change = 1.5 * dose[at] - 4 * sex[at] - 3 + noise[at]
        lines.append(f"{'abc'[at % 3]},{dose[at]:.17g},{'fm'[sex[at]]},{change:.17g}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "codebook.toml").write_text(BOOK)
    return tmp_path


@pytest.mark.parametrize("spec", ["site", "iid", "uneven:1"])
def test_a_number_is_learned_as_scikit_learn_learns_it(spec: str, folder: Path) -> None:
    rows = dataset.load(str(folder / "rows.csv"), codebook=folder / "codebook.toml")
    parts = partition(rows, spec, None if spec == "site" else 3, 0)
    result = run(rows, parts, Settings(backend=Backend.PLAIN), lambda phase: None)
    train, test = (np.concatenate([getattr(part, name) for part in parts]) for name in ("train", "test"))
    reference = make_pipeline(StandardScaler(), Ridge(1e-3 * len(train))).fit(rows.X[train], rows.y[train])
    predicted, truth = reference.predict(rows.X[test]), rows.y[test]
    found = result.figures["held_out"]
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, predicted), rel=1e-8)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted), rel=1e-8)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), rel=1e-8)
    assert found["r2"] > 0.7
    assert result.figures["rmse"]["together"] == pytest.approx(found["rmse"])
    assert result.figures["rmse"]["pooled_plain"] == pytest.approx(found["rmse"])


def test_the_command_shows_a_regression(folder: Path) -> None:
    def said(*arguments: str) -> str:
        done = CliRunner().invoke(main.app, list(arguments), env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output
        return done.output

    common = ["--data", str(folder / "rows.csv"), "--codebook", str(folder / "codebook.toml")]
    files = ["--html", str(folder / "run.html"), "--model-out", str(folder / "model.safetensors")]
    shown = said("run", *common, *files, "--json", str(folder / "run.json"))
    for text in (
        "Root mean squared error (kg)",
        "personal",
        "R²",
        "MAE",
        "the predicted change (kg)",
        "95 % interval",
        "RMSE, all test rows",
    ):
        assert text in shown
    figures = json.loads((folder / "run.json").read_text())
    assert (figures["classes"], figures["unit"]) == ([], "kg")
    assert "accuracy" not in figures
    assert "root mean squared error (kg)" in (folder / "run.html").read_text()
    judged = said("evaluate", str(folder / "model.safetensors"), str(folder / "rows.csv"))
    assert "RMSE of guessing the mean" in judged
    assert " kg" in judged


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("dirichlet:0.5", Settings(backend=Backend.PLAIN), "has a number to predict, and no labels"),
        ("labels:1", Settings(backend=Backend.PLAIN), "has a number to predict, and no labels"),
        (
            "iid",
            Settings(model="fedacnnl", backend=Backend.PLAIN),
            "expected classes .* for fedacnnl, got a number",
        ),
    ],
)
def test_what_needs_classes_says_so(spec: str, settings: Settings, message: str, folder: Path) -> None:
    rows = dataset.load(str(folder / "rows.csv"), codebook=folder / "codebook.toml")
    with pytest.raises(DataError, match=message):
        run(rows, partition(rows, spec, 3, 0), settings, lambda phase: None)
