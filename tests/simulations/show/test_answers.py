"""What the demo tells somebody who has never heard of Gram matrices, on consoles of any width."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from secure_afl.protocol.session.backend import Backend
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import Part, partition
from secure_afl.simulations.show import answers, printed
from secure_afl.simulations.show.forest import drawn
from secure_afl.simulations.study.report import Run
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings
from secure_afl.tables import model
from secure_afl.tables import shown as tables


def divided(**settings: object) -> tuple[Dataset, list[Part], Run]:
    data = load("heart")
    parts = partition(data, "site", None, 0)
    return data, parts, run(data, parts, Settings(**settings), lambda phase: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def demo() -> tuple[Dataset, Run]:
    data, _, result = divided()
    return data, result


def shown(data: Dataset, result: Run, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(width=width, file=StringIO(), record=True)
    monkeypatch.setattr(answers, "console", console)
    monkeypatch.setattr(printed, "console", console)
    assert data.codebook
    learned = model.of_ridge(result.learned, data.codebook, data=data.name, backend=result.figures["backend"])
    printed.print_run(result, data.note, learned)
    return console.export_text()


def test_the_demo_answers_what_a_hospital_asks(
    demo: tuple[Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(*demo, 200, monkeypatch).replace("│", " ").replace("┃", " ").splitlines()
    text = [" ".join(line.split()) for line in lines]
    for line in (
        "column all clients together missing",  # who the patients are
        "chol 247.7 ± 58.2 mg/dl 21.9%",
        "column effect 95 % interval p",  # what predicts the disease
        "sex = Male 0.164 0.089 to 0.239 <0.001",
        "exang missing – – –",  # the same rows as thalch missing
        "client training rows alone together personal",  # what joining is worth
        "mean over rows 690 0.878 0.865 0.870",
        "Switzerland 0.643 0.865 0.830",
        "Cleveland 5,083 masked 10,529",  # what it costs and shows
        "secure and integer sum equal, bit for bit",
    ):
        assert line in text, line
    assert any("proven (certificate)" in line for line in text)
    assert "rare or outlying values were coded as others" in " ".join(
        text
    )  # so these are not the raw rows' means
    assert not any("Gram" in line for line in text)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_no_word_of_the_demo_is_cut(
    width: int, demo: tuple[Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(*demo, width, monkeypatch).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    text = " ".join(" ".join(lines).replace("│", " ").split())
    for word in ("0.164", "0.239", "21.9%", "10,529", "thalch", "personal", "asymptomatic"):
        assert word in text


@pytest.mark.parametrize(
    ("settings", "words", "tables"),
    [
        ({"backend": Backend.PLAIN}, "4,472 readable", True),
        ({"backend": Backend.BFV, "release": "weights"}, "only the key holders can open the total", False),
        ({"epsilon": 4.0}, "No intervals: ", False),
    ],
    ids=["plain", "weights", "noise"],
)
def test_what_a_sum_does_not_give_is_not_printed(
    settings: dict[str, object], words: str, tables: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _, result = divided(**settings)
    text = shown(data, result, 200, monkeypatch)
    assert words in " ".join(text.replace("│", " ").split())
    assert ("Table 1" in text) == ("personal: " in text) == ("95 % interval" in text) == tables


def test_the_mean_over_rows_is_that_of_the_rows(demo: tuple[Dataset, Run]) -> None:
    data, result = demo
    test = {part.client: part.test for part in partition(data, "site", None, 0)}
    right = sum(int((result.learned.predict(data.X[rows]) == data.y[rows]).sum()) for rows in test.values())
    assert result.means()["together"] == pytest.approx(right / sum(map(len, test.values())))
    sent = [one.sums for one in result.left()]
    assert sent == [result.figures["bytes"]["upload_per_client"]] * 4


def test_the_picture_has_the_tables_intervals_by_one_standard_deviation(demo: tuple[Dataset, Run]) -> None:
    data, result = demo
    assert data.codebook
    learned = model.of_ridge(result.learned, data.codebook, data="heart", backend="mask")
    deviations = {
        one["name"]: one["deviation"]
        for one in result.figures["table_one"]["lines"]
        if one["deviation"] is not None
    }
    shown = {label: values for label, *values in drawn(learned, deviations)}
    lines = {one.term: one for one in tables.lines(learned)}
    male, age = lines["sex = Male"], lines["age"]
    assert shown["sex = Male"] == [male.coefficient, male.low, male.high]
    (label,) = [label for label in shown if label.startswith("age (by")]
    assert label == f"age (by {deviations['age']:.3g} years)"
    assert age.low is not None
    assert shown[label][1] == pytest.approx(deviations["age"] * age.low)
    assert "exang missing" not in shown  # it follows from thalch missing
    assert "intercept" not in shown
    assert drawn(replace(learned, ls_coef=None, ls_se=None), deviations) == []
