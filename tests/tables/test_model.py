"""Model files: what is written is read, and says what statsmodels and scikit-learn say of the pooled rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

from secure_afl import (
    FederatedLogisticRegression,
    FederatedPoissonRegression,
    FederatedRidge,
    FederatedRidgeClassifier,
    PlainAggregator,
    Policy,
)
from secure_afl.errors import DataError
from secure_afl.simulations.cli import main
from secure_afl.tables import codebook as codebooks
from secure_afl.tables import model as models
from secure_afl.tables import shown
from secure_afl.tables.encoding import Design, encode
from secure_afl.tables.model import Model
from secure_afl.tables.reading import read
from secure_afl.tables.terms import row_norm

COLUMNS = """
site = "ward"
[columns]
age = { kind = "number", range = [18, 100], unit = "years" }
year = { kind = "number", range = [2000, 2030] }
sex = { kind = "category", levels = ["f", "m"] }
stage = { kind = "category", levels = ["I", "II", "III"], missing = ["?"] }
"""
CLASSES = COLUMNS + '[outcome]\nkind = "classes"\ncolumn = "sick"\nclasses = { well = ["0"], ill = ["1"] }\n'
THREE = COLUMNS + '[outcome]\nkind = "classes"\ncolumn = "grade"\nclasses = ["c", "a", "b"]\n'
COUNT = COLUMNS + '[outcome]\nkind = "number"\ncolumn = "visits"\nrange = [0, 60]\n'
NUMBER = COLUMNS + '[outcome]\nkind = "number"\ncolumn = "bp"\nrange = [40, 260]\nunit = "mm Hg"\n'


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    n = 240
    frame = pd.DataFrame(
        {
            "ward": rng.choice(["A", "B", "C"], n),
            "age": rng.integers(20, 90, n),
            "year": rng.integers(2005, 2025, n),
            "sex": rng.choice(["f", "m"], n),
            "stage": rng.choice(["I", "II", "III", "?"], n),
        }
    )
    risk = frame.age / 40 + (frame.sex == "m") + 0.05 * (frame.year - 2015) + rng.normal(size=n)
    frame["sick"] = (risk > 2.0).astype(int)
    frame["grade"] = np.where(risk > 2.5, "a", np.where(risk > 1.5, "b", "c"))
    frame["bp"] = (100 + 15 * risk).round(1).clip(45, 250)
    frame["visits"] = rng.poisson(np.exp(risk / 3))
    path = tmp_path_factory.mktemp("model") / "rows.csv"
    frame.to_csv(path, index=False)
    return path


def learned(table: Path, text: str, ridge: float = 1e-3) -> tuple[Model, Design]:
    book = codebooks.parse(text)
    design = encode(book, read(table))
    assert design.outcome is not None
    assert design.site is not None
    if book.classes:
        classifier = FederatedRidgeClassifier(row_norm(book), classes=range(len(book.classes)), ridge=ridge)
        classifier.fit(design.X, design.outcome, design.site)
        return models.of_ridge(classifier, book, data=table.name, backend="mask"), design
    target = book.outcome
    assert isinstance(target, codebooks.Target)
    regressor = FederatedRidge(row_norm(book), target_bounds=target.range, ridge=ridge)
    regressor.fit(design.X, design.outcome, design.site)
    return models.of_ridge(regressor, book, data=table.name, backend="mask"), design


def raw(table: Path) -> pd.DataFrame:
    """The features in the table's units, made by pandas."""
    frame = pd.read_csv(table)
    columns = {"age": frame.age, "year": frame.year, "sex = m": frame.sex == "m"}
    columns |= {f"stage = {level}": frame.stage == level for level in ("II", "III")}
    return pd.DataFrame(columns | {"stage missing": frame.stage == "?"}).astype(float)


@pytest.mark.parametrize("text", [CLASSES, THREE, NUMBER])
def test_the_table_is_that_of_statsmodels(table: Path, text: str) -> None:
    model, _ = learned(table, text)
    frame = pd.read_csv(table)
    column = frame[model.codebook.outcome.column]
    targets = {"ill": column == 1, "bp": column} | {one: column == one for one in "abc"}
    lines = shown.lines(model)
    assert len(lines) == 7 * (3 if text == THREE else 1)
    for output in {line.output for line in lines}:
        fit = sm.OLS(targets[output].astype(float), sm.add_constant(raw(table))).fit()
        mine = [line for line in lines if line.output == output]
        assert [line.term for line in mine] == ["intercept", *raw(table).columns]
        low, high = fit.conf_int().to_numpy().T
        expected = (fit.params, fit.bse, low, high, fit.tvalues, fit.pvalues)
        for at, values in enumerate(expected):
            ours = np.array([line[3 + at] for line in mine], dtype=np.float64)
            np.testing.assert_allclose(ours, values, rtol=1e-7, atol=1e-12)
    assert model.about.freedom == 240 - 7


@pytest.mark.parametrize("text", [CLASSES, THREE])
def test_predictions_are_those_of_scikit_learn(table: Path, text: str) -> None:
    model, design = learned(table, text, ridge=0.1)
    frame = pd.read_csv(table)
    labels = frame[model.codebook.outcome.column].map(
        {0: "well", 1: "ill"} if text == CLASSES else {one: one for one in "abc"}
    )
    reference = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.1 * len(frame)))
    reference.fit(raw(table).to_numpy(), labels)
    assert model.predict(design).tolist() == reference.predict(raw(table).to_numpy()).tolist()
    fitted = model.to_sklearn()
    frame_of = pd.DataFrame(design.X, columns=[term.name for term in model.terms])
    assert fitted.predict(frame_of).tolist() == model.predict(design).tolist()
    np.testing.assert_allclose(
        fitted.decision_function(frame_of), reference.decision_function(raw(table).to_numpy()), atol=1e-9
    )


@pytest.mark.parametrize("text", [CLASSES, THREE, NUMBER])
def test_a_file_holds_it_all(table: Path, text: str, tmp_path: Path) -> None:
    model, design = learned(table, text)
    model.save(tmp_path / "m.safetensors")
    again = models.load(tmp_path / "m.safetensors")
    assert again.codebook == model.codebook
    assert again.about == model.about
    assert np.array_equal(again.predict(design), model.predict(design))
    assert shown.lines(again) == shown.lines(model)
    tensors = load_file(tmp_path / "m.safetensors")
    assert "covariance" not in str(tensors)
    # Of the raw columns, by anybody who reads the file without us.
    scores = raw(table).to_numpy() @ tensors["table_coef"].T + tensors["table_intercept"]
    flagged = raw(table)["stage missing"] == 0
    np.testing.assert_allclose(scores[flagged], model.scores(design.X)[flagged], rtol=1e-9, atol=1e-9)
    if text == NUMBER:
        ours = model.to_sklearn().predict(pd.DataFrame(design.X, columns=[one.name for one in model.terms]))
        np.testing.assert_allclose(ours, model.predict(design))


def test_what_is_no_model_is_refused(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for content in (b"", b"\x80\x04pickle", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"m\.safetensors: expected a model file that `secure-afl` wrote"):
            models.load(path)
    save_file({"coef": np.ones(3)}, path)
    with pytest.raises(DataError, match="expected the format"):
        models.load(path)
    model, _ = learned(table, CLASSES)
    model.save(path)
    tensors = load_file(path)
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        metadata = dict(file.metadata())
    changes: list[tuple[dict[str, Any], dict[str, str], str]] = [
        ({"coef": np.ones((2, 3))}, {}, "expected coefficients of shape"),
        ({"coef": tensors["coef"] * np.nan}, {}, "expected finite coefficients"),
        ({"coef": tensors["coef"].astype(np.float32)}, {}, "expected tensors of float64"),
        ({"ls_se": np.ones((1, 1))}, {}, "expected standard errors of shape"),
        (
            {},
            {"codebook": metadata["codebook"].replace("[18.0,100.0]", "[18.0,99.0]")},
            "whose SHA-256 is codebook_sha256",
        ),
        ({}, {"codebook": "{}"}, "expected a codebook"),
        ({}, {"about": "{}"}, "missing required field"),
    ]
    for changed, said, message in changes:
        save_file({**tensors, **changed}, path, metadata | said)
        with pytest.raises(DataError, match=message):
            models.load(path)
    del metadata["about"]
    save_file(tensors, path, metadata)
    with pytest.raises(DataError, match="expected a model file with 'about'"):
        models.load(path)


def test_a_column_that_follows_from_an_earlier_one_has_a_dash(table: Path) -> None:
    text = CLASSES.replace("[outcome]", 'age2 = { kind = "number", range = [0, 200] }\n[outcome]')
    twice = table.with_name("twice.csv")
    frame = pd.read_csv(table)
    frame["age2"] = frame.age * 2
    frame.to_csv(twice, index=False)
    model, _ = learned(twice, text)
    without, _ = learned(table, CLASSES)
    *rows, last = shown.cells(model)
    assert rows == shown.cells(without)
    assert last[0] == "age2"
    assert last[2:] == ["–"] * 6
    assert "a dash: the column is constant, or follows from those above it" in shown.notes(model)
    path = table.with_name("twice.safetensors")
    model.save(path)
    assert shown.cells(models.load(path)) == [*rows, last]


def test_columns_that_tell_the_outcome_are_said_to(table: Path) -> None:
    text = CLASSES.replace("[outcome]", 'told = { kind = "yes/no", yes = ["1"], no = ["0"] }\n[outcome]')
    frame = pd.read_csv(table)
    frame["told"] = frame.sick
    frame.to_csv(table.with_name("told.csv"), index=False)
    model, _ = learned(table.with_name("told.csv"), text)
    (line,) = (line for line in shown.lines(model) if line.term == "told")
    assert line.coefficient == pytest.approx(1)
    assert shown.EXACT in shown.notes(model)
    assert any(note.startswith("least_rows 5 of the codebook: sites may have") for note in shown.notes(model))
    assert shown.EXACT not in shown.notes(learned(table, CLASSES)[0])


def test_a_model_is_evaluated_on_held_out_rows_alone(table: Path) -> None:
    model, design = learned(table, f"held_out = \"ward == 'A'\"\n{NUMBER}")
    assert design.held_out is not None
    model.save(table.with_name("held.safetensors"))
    elsewhere = table.with_name("elsewhere.csv")
    pd.read_csv(table).rename(columns={"ward": "place"}).to_csv(elsewhere, index=False)
    for rows, said in ((table, True), (elsewhere, False)):
        done = CliRunner().invoke(main.app, ["evaluate", str(table.with_name("held.safetensors")), str(rows)])
        assert done.exit_code == 0, done.output
        text = f"{int(design.held_out.sum())} held-out rows; the model may have learned from the other"
        assert (text in " ".join(done.output.split())) is said


def regression(table: Path, text: str, **more: Any) -> tuple[Model, Design]:
    """A logistic or Poisson regression."""
    book = codebooks.parse(text)
    design = encode(book, read(table))
    clear: dict[str, Any] = {"aggregator": PlainAggregator(Policy(backends=frozenset({"plain"})))} | more
    model = (
        FederatedLogisticRegression(row_norm(book), classes=[0, 1], **clear)
        if book.classes
        else FederatedPoissonRegression(row_norm(book), largest_count=60, **clear)
    )
    model.fit(design.X, design.outcome, design.site)
    return models.of_glm(model, book, data=table.name, backend="plain"), design


@pytest.mark.parametrize("text", [CLASSES, COUNT])
def test_a_regressions_table_is_that_of_statsmodels(table: Path, text: str, tmp_path: Path) -> None:
    model, design = regression(table, text)
    family = sm.families.Binomial() if model.codebook.classes else sm.families.Poisson()
    frame = pd.read_csv(table)
    outcome = frame[model.codebook.outcome.column].astype(float)
    fit = sm.GLM(outcome, sm.add_constant(raw(table)), family=family).fit(tol=1e-13)
    low, high = fit.conf_int().to_numpy().T
    expected = (fit.params, fit.bse, low, high, fit.tvalues, fit.pvalues)
    ratios = (np.exp(fit.params), np.exp(low), np.exp(high))
    for at, values in enumerate((*expected, *ratios)):
        ours = np.array([line[3 + at] for line in shown.lines(model)], dtype=np.float64)
        np.testing.assert_allclose(ours, values, rtol=1e-6, atol=1e-9)
    scores = model.scores(design.X)
    np.testing.assert_allclose(scores[:, -1], fit.fittedvalues, rtol=1e-6)

    model.save(tmp_path / "m.safetensors")
    again = models.load(tmp_path / "m.safetensors")
    assert shown.lines(again) == shown.lines(model)
    assert again.predict(design).tolist() == model.predict(design).tolist()
    assert f"deviance {fit.deviance:.6g}" in " ".join(shown.notes(again))
    named = "odds ratio" if model.codebook.classes else "rate ratio"
    assert shown.heading(again)[2:] == ["coefficient", named, "95 % low", "95 % high", "SE", "z", "p"]
    X = pd.DataFrame(design.X, columns=[term.name for term in model.terms])
    theirs = model.to_sklearn()
    assert theirs.predict(X).tolist() == pytest.approx(model.predict(design).tolist())
    if model.codebook.classes:
        order = [model.outputs.index(label) for label in theirs.classes_]
        np.testing.assert_allclose(theirs.predict_proba(X), scores[:, order], rtol=1e-9)


def test_a_penalised_regression_has_ratios_and_no_errors(table: Path) -> None:
    model, _ = regression(table, CLASSES, ridge=0.01)
    assert model.ls_se is None
    assert shown.heading(model)[2:] == ["coefficient", "odds ratio"]
    assert all(len(row) == 4 for row in shown.cells(model))
    assert "no standard errors: expected standard errors, got none: a penalised fit" in " ".join(
        shown.notes(model)
    )


@pytest.mark.slow
@pytest.mark.parametrize(("model", "text"), [("logistic", CLASSES), ("poisson", COUNT)])
def test_a_regression_on_the_command_line(table: Path, tmp_path: Path, model: str, text: str) -> None:
    book, file = tmp_path / "book.toml", tmp_path / "m.safetensors"
    book.write_text(text)
    run = ("run", "--data", table, "--codebook", book, "--model", model, "--suite", "x25519")
    trusting = (*run, "--trust-reports", "verified")
    code, printed = said(*run)
    assert code == 2
    assert "needs --trust-reports" in printed
    code, printed = said(*trusting, "--epsilon", "1")
    assert code == 2
    assert "no accounting" in printed
    code, printed = said(*trusting)
    assert code == 1
    assert "expected at least 195 pooled rows for 7 coefficients" in printed
    page = tmp_path / "run.html"
    code, printed = said(*trusting, "--least-rows", "2", "--model-out", file, "--html", page)
    assert code == 0
    assert ("Odds ratios" if model == "logistic" else "Rate ratios") in printed
    assert f"a {model} regression" in page.read_text().lower()
    assert models.load(file).about.family == model
    for command in (("evaluate", file, table), ("show", file)):
        assert said(*command)[0] == 0
    wrong = {"logistic": "poisson", "poisson": "logistic"}[model]
    code, printed = said(*trusting, "--model", wrong)
    assert code == 1
    assert "as outcome of a" in printed


def said(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_commands(table: Path, tmp_path: Path) -> None:
    book, file = tmp_path / "book.toml", tmp_path / "m.safetensors"
    book.write_text(CLASSES)
    code, text = said("run", "--data", table, "--codebook", book, "--model-out", file)
    assert code == 0
    model = models.load(file)
    assert model.about.survivors == (("A", "B", "C"),)
    assert len(model.about.session) == 64
    code, text = said("show", file)
    assert code == 0
    assert "outcome: sick (1 for ill, 0 for well)" in text
    for form, words in (
        ("markdown", "| age | years |"),
        ("markdown", "| 95 % low | 95 % high | SE | t | p |"),
        ("html", "<td>sex = m</td>"),
        ("csv", "ill,stage missing,,"),
    ):
        code, text = said("show", file, "--format", form)
        assert code == 0
        assert words in text
    code, text = said("evaluate", file, table)
    assert code == 0
    assert "guessing the largest class" in text
    assert "AUC" in text
    raw_rows = table.read_text().splitlines()
    new = tmp_path / "new.csv"
    new.write_text("\n".join([",".join(line.split(",")[:5]) for line in raw_rows]) + "\n")
    code, text = said("predict", file, new, "--out", tmp_path / "out.csv")
    assert code == 0
    out = pd.read_csv(tmp_path / "out.csv")
    assert list(out.columns) == ["row", "sick", "score of well", "score of ill"]
    design = encode(model.codebook, read(new), outcome=False)
    assert out.sick.tolist() == model.predict(design).tolist()
    new.write_text(new.read_text().replace(",f,", ",F,", 1))
    code, text = said("predict", file, new, "--out", tmp_path / "out.csv")
    assert code == 1
    assert "column 'sex'" in text
    assert said("run", "--data", "digits", "--model-out", file)[0] == 2


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "+"])
def test_no_cell_of_a_csv_file_is_a_formula(cell: str) -> None:
    assert shown.harmless(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-1.5", "+3", "-inf", "a=1", "", 1.5, -2, None])
def test_numbers_and_other_texts_are_written_as_they_are(cell: object) -> None:
    assert shown.harmless(cell) is cell
