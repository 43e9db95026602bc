import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_afl.errors import DataError
from secure_afl.models.networks.network import Conv, Dense
from secure_afl.simulations.data import dataset as data_module
from secure_afl.simulations.data.dataset import Dataset, load
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.networks import network_for
from secure_afl.tables.faults import TableError


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "row"),
    [
        ("heart", (920, 30), 2, (30,)),
        ("mnist5k", (5000, 784), 10, (1, 28, 28)),
        ("digits", (1797, 64), 10, (1, 8, 8)),
    ],
)
def test_built_in_data_keep_their_public_bound(
    name: str, shape: tuple[int, int], classes: int, row: tuple[int, ...]
) -> None:
    data = load(name)
    assert data.shape == row
    assert (data.name, data.X.shape, len(data.classes)) == (name, shape, classes)
    assert data.X.dtype == np.float64
    assert data.y.dtype == np.int64
    assert len(set(data.features)) == shape[1]
    assert np.abs(data.X).max() <= 1
    assert (np.einsum("ij,ij->i", data.X, data.X) <= data.row_norm**2).all()
    assert data.row_norm == pytest.approx(math.sqrt(13 if name == "heart" else shape[1]))
    assert data.note.startswith("scale: ")


def test_heart_has_four_hospitals_and_the_right_labels() -> None:
    data = load("heart")
    assert data.site is not None
    assert Counter(data.site.tolist()) == {
        "Cleveland": 304,
        "Hungary": 293,
        "Switzerland": 123,
        "VA Long Beach": 200,
    }
    ill = Counter(data.site[data.y == data.classes.index("present")].tolist())
    assert ill == {"Cleveland": 139, "Hungary": 106, "Switzerland": 115, "VA Long Beach": 149}
    assert data.classes == ("absent", "present")
    assert data.site[303] == "Cleveland"  # row id 304, as the file has it


def test_heart_flags_what_is_missing() -> None:
    data = load("heart")
    chol, flag = (data.X[:, data.features.index(name)] for name in ("chol", "chol missing"))
    assert flag.sum() == 30 + 172  # empty cells and zeros
    assert (chol[flag == 1] == 0).all()
    words = [i for i, name in enumerate(data.features) if name.startswith("thal ")]
    assert (data.X[:, words].sum(axis=1) <= 1).all()
    assert data.X[:, data.features.index("thal missing")].sum() == 486


def test_pixels_are_on_the_scale_of_the_format() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    data = load("digits")
    np.testing.assert_array_equal(data.X * 16, pixels)
    np.testing.assert_array_equal(data.y, labels)
    mnist = load("mnist5k")
    assert mnist.X.max() == 1
    assert Counter(mnist.y.tolist()) == dict.fromkeys(range(10), 500)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("age", "17", "column 'age', data row 3: '17', expected a number from 18 to 100 years"),
        ("age", "", "column 'age', data row 3: '', expected a number from 18 to 100 years"),
        ("chol", "high", "column 'chol', data row 3: 'high', expected a number from 50 to 700 mg/dl"),
        ("oldpeak", "nan", "column 'oldpeak', data row 3: 'nan', expected a number from -5 to 10 mm"),
        ("thal", "abnormal", "column 'thal', data row 3: 'abnormal', expected one of 'normal'"),
        ("sex", "", "column 'sex', data row 3: '', expected one of 'Female', 'Male'"),
        ("sex", "male", "write 'Male', as upper and lower case differ"),
    ],
)
def test_heart_refuses_what_its_codebook_does_not_know(
    column: str, cell: str, message: str, tmp_path: Path
) -> None:
    with (data_module._FOLDER / "heart_disease_uci.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[2][column] = cell
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path / "a.csv"), codebook=data_module._FOLDER / "heart.toml")


def test_a_codebook_needs_a_table_and_says_what_is_predicted(tmp_path: Path) -> None:
    book = data_module._FOLDER / "heart.toml"
    for source in ("heart", "digits", saved(tmp_path / "a.npz", x=[[1.0], [2.0]], y=[0, 1])):
        with pytest.raises(DataError, match="expected a table with a codebook"):
            load(source, codebook=book)
    table = str(data_module._FOLDER / "heart_disease_uci.csv")
    with pytest.raises(DataError, match="the codebook names the outcome: leave out --label-column"):
        load(table, codebook=book, label_column="num")
    with pytest.raises(DataError, match="expected one site column, got 'ward' and 'dataset'"):
        load(table, codebook=book, site_column="ward")
    with pytest.raises(DataError, match=r"got no file 'absent\.csv'"):
        load("absent.csv", codebook=book)
    empty = tmp_path / "empty.csv"
    empty.write_text(Path(table).read_text().splitlines()[0])
    with pytest.raises(
        DataError, match=r"empty\.csv: expected rows to learn from, the codebook takes none of 0"
    ):
        load(str(empty), codebook=book)
    same = load(table, codebook=book)
    assert np.array_equal(same.X, load("heart").X)
    assert not same.from_rows


def test_pooled_ridge_on_heart_is_useful() -> None:
    data = load("heart")
    for seed in range(3):
        parts = partition(data, "site", None, seed)
        train = np.concatenate([part.train for part in parts])
        test = np.concatenate([part.test for part in parts])
        X, Y = data.X[train], np.eye(2)[data.y[train]]
        W = np.linalg.solve(X.T @ X + np.eye(X.shape[1]), X.T @ Y)
        assert ((data.X[test] @ W).argmax(axis=1) == data.y[test]).mean() > 0.78


def test_csv(tmp_path: Path) -> None:
    text = "\ufeffage, colour,flat,label,site\n5,red,0,yes,B\n\n-3,blue,0,no,A\n2.5,red,0,no,A\n"
    data = load(written(tmp_path / "a.csv", text))
    assert data.features == ("age", "colour = red", "flat")
    expected = [[5 / 8, 1, 0], [-3 / 8, 0, 0], [2.5 / 8, 1, 0]]
    np.testing.assert_array_equal(data.X, expected)
    assert data.classes == ("no", "yes")
    assert data.y.tolist() == [1, 0, 0]
    assert data.site is not None
    assert data.site.tolist() == ["B", "A", "A"]
    assert data.row_norm == pytest.approx(math.sqrt(3))
    assert [one[:3] for one in data.about] == [
        ("age", "number", "-3 to 5"),
        ("colour", "category", "blue, red"),
        ("flat", "number", "0 to 0"),
    ]
    assert "agree" in data.note


def test_csv_other_columns_and_numeric_labels_in_numeric_order(tmp_path: Path) -> None:
    source = written(tmp_path / "a.CSV", "x,digit,ward\n1,10,1\n2,9,1\n4,9,2\n")
    data = load(source, label_column="digit", site_column="ward")
    assert data.classes == ("9", "10")
    assert data.y.tolist() == [1, 0, 0]
    assert data.site is not None
    assert data.site.tolist() == ["1", "1", "2"]
    assert data.X[:, 0].tolist() == [0.25, 0.5, 1]
    assert load(source, label_column="digit").site is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header and then one line a row, got an empty file"),
        ("x,label\n", "got no rows"),
        ("x,y\n1,2\n", "expected a column 'label', there are 'x', 'y'"),
        ("x,label\n1,a\n2,a\n", "every row has the label 'a': nothing to learn"),
        ("x,label\n1,a\nnan,b\n", "column 'x', data row 2: 'nan', expected a value in every row"),
        ("x,label\n1,a\n-inf,b\n", "column 'x', data row 2: '-inf', expected a finite number"),
        ("x,label\n1,a\n,b\n", "column 'x', data row 2: ''"),
        ("x,label\n1,a\n12a,b\n", "column 'x', data row 2: '12a', expected a finite number as in the other"),
        ("x,label\nred,a\n12,b\nred,a\n", "column 'x', data row 2: '12', expected a word as in the other"),
        ("x,label\nred,a\n,b\n", "column 'x', data row 2: ''"),
        ("x,label\nred,a\nN/A,b\n?,a\n", r"column 'x', data rows 2, 3: 'N/A', '\?', expected a value"),
        ("x,label\n1,a\n2,\n", "column 'label', data row 2: '', expected a value in every row"),
        ("x,label\n1,a\n2,NaN\n", "column 'label', data row 2: 'NaN'"),
        ("x,label\n1,a\n2,?\n", r"column 'label', data row 2: '\?'"),
        ("x,label\n1,a\n2,1\n3,b\n", "column 'label', data row 2: '1', expected a word as in the other"),
        ("x,label\n1,0.5\n2,1\n", "'label', data row 1: '0.5', expected a word or a whole number as label"),
        ("x,label,site\n1,a,A\n2,b,\n", "column 'site', data row 2: ''"),
        (f"x,label,site\n1,a,{65 * 'A'}\n2,b,B\n", "'site', data row 1: 'A*…', expected a printable name of"),
        (
            "sex,label\nF,a\nf,b\nm,a\n",
            "column 'sex', data rows 1, 2: 'F', 'f', expected one way of writing each word",
        ),
        (
            "x,label\n1,Ill\n2,well\n3,ill\n",
            "column 'label', data rows 1, 3: 'Ill', 'ill', expected one way",
        ),
        ("site,x,label\nNorth,1,a\nNORTH,2,b\n", "'NORTH', expected one way.*the name of a site alike"),
        ("x,label\n45%,a\n50%,b\n", "data rows 1, 2: '45%', '50%', expected a number.*without the sign"),
        ('x,label\n"1,045",a\n"1,050",b\n', "'1,045', '1,050', expected a number.*separates thousands"),
        ("x,label\n12/05/2020,a\n13/05/2020,b\n", "'12/05/2020', '13/05/2020', expected a number or a word"),
        ("x,label\n54 kg,a\n60 kg,b\n", "'54 kg', '60 kg', expected a number or a word"),
        ("x,label\n007,a\n12,b\n", "data row 1: '007', expected a number without zeros before it"),
        ("x,label\n54,a\n-999,b\n60,a\n31,b\n", "data row 2: '-999'.*a mark for a missing value"),
        ("x,label\n1,a\n2,b\n99,a\n4,b\n", "data row 3: '99', expected a number near the others"),
        ("x,label\n1,a\n2,b,c\n", "data row 2: 3 cells, expected 2 as in the header"),
        ("x,x,label\n1,1,a\n2,2,b\n", "the header has 'x' more than once"),
        (",label\n1,a\n2,b\n", "expected a name for every column"),
        ("label\na\nb\n", "expected columns to learn from besides the label, there are 'label'"),
        ('x,label\n"1,a\n', "expected a quote at the end of a cell"),
        (
            "x,label\n" + "".join(f"{i},{i}\n" for i in range(30)),
            "column 'label': 30 different labels in 30 rows; a number to predict, and no class",
        ),
        (
            "x,label\n" + "".join(f"id-{i},{i % 2}\n" for i in range(65)),
            "column 'x': 65 different words, it looks like an identifier",
        ),
        (
            "x,label\n" + "".join(f"{1000 + i},{i % 2}\n" for i in range(30, 0, -1)),
            "column 'x': it numbers the rows: leave it out",
        ),
        ("x,label\n1152921504606846977,a\n12,b\n", "column 'x': whole numbers of 16 digits or more"),
        (f"x,label\nok,a\n{'y' * 101},b\n", "column 'x': a cell of 101 letters, it looks like free text"),
        (
            "x,label\n"
            + "".join(f"{v},{i % 2}\n" for i, v in enumerate([999, 888, *range(31, 79), 777, 40])),
            "data rows 1, 2, 51: '999', '888', '777'.*a mark for a missing value",
        ),
        (
            "x,label\n" + "".join(f"{v},{i % 2}\n" for i, v in enumerate([-1, *range(20), 3, -9])),
            "data rows 1, 23: '-1', '-9'.*a mark for a missing value",
        ),
        ("x,label,\n1,a,\n2,b,\n", "a separator at the end of every line"),
    ],
)
def test_csv_refusals(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(written(tmp_path / "bad.csv", text))


@pytest.mark.parametrize(
    "cells",
    ["1st 2nd 3rd", "12A 13B 14A", "none some none", "0 99 50", "-1 0 1", "1e3 2e3 5", "0.5 0 1", "77 80 90"],
)
def test_words_and_numbers_that_mean_themselves_are_not_refused(cells: str, tmp_path: Path) -> None:
    rows = "".join(f"{cell},{at % 2}\n" for at, cell in enumerate(cells.split()))
    assert len(load(written(tmp_path / "a.csv", f"x,label\n{rows}")).y) == 3


def test_every_bad_cell_is_named_by_its_data_row(tmp_path: Path) -> None:
    rows = ["a,1,0"] * 5 + ["b,?,1"] + ["b,1,0"] * 5 + ["a,n/a,1", "12%,?,-"]
    with pytest.raises(TableError) as caught:
        load(written(tmp_path / "a.csv", "\n".join(["c,x,label", *rows])))
    found = {fault.column: fault.cells for fault in caught.value.faults}
    assert found == {"label": {"-": [13]}, "c": {"12%": [13]}, "x": {"?": [6, 13], "n/a": [12]}}
    assert caught.value.faults[2].rows == [6, 12, 13]
    assert len(caught.value.__notes__) == 2


def test_a_column_of_one_word_is_not_used_and_said_so(tmp_path: Path) -> None:
    data = load(written(tmp_path / "a.csv", "country,x,label\nDE,1,a\nDE,2,b\nDE,4,b\n"))
    assert data.features == ("x",)
    assert data.about[0][:3] == ("country", "not used", "'DE' in every row")


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300), min_size=2)
)
def test_power_of_two_scale_is_exact_and_covers(values: list[float]) -> None:
    column = np.array(values)
    power = float(data_module._power(column))
    assert math.frexp(power)[0] == 0.5
    scaled = column / power
    assert np.abs(scaled).max() <= 1
    assert np.abs(scaled).max() > 0.5 or not column.any()
    normal = (np.abs(scaled) > 1e-300) & (power > 1e-300)
    assert (scaled[normal] * power == column[normal]).all()


def test_sites_are_called_as_they_are_written(tmp_path: Path) -> None:
    data = load(written(tmp_path / "a.csv", "x,label,site\n1,a,007\n2,b,7\n"))
    assert data.site is not None
    assert data.site.tolist() == ["007", "7"]


def test_npz(tmp_path: Path) -> None:
    x = np.arange(12).reshape(3, 2, 2)
    data = load(saved(tmp_path / "a.npz", x=x, y=[2, 7, 7], site=["u", "v", "v"], other=[1]))
    assert data.X.shape == (3, 4)
    assert data.X[:, 3].tolist() == [3 / 16, 7 / 16, 11 / 16]
    assert data.classes == ("2", "7")
    assert data.y.tolist() == [0, 1, 1]
    assert data.site is not None
    assert data.site.tolist() == ["u", "v", "v"]
    named = load(saved(tmp_path / "b.npz", X=x, y=[0, 0, 0], kind=["p", "q", "q"]), label_column="kind")
    assert named.classes == ("p", "q")
    both = load(saved(tmp_path / "c.npz", X=x, y=[0, 0, 0], label=[False, True, True]))
    assert both.classes == ("0", "1")


@pytest.mark.parametrize(
    ("x", "row"),
    [
        ((2,), (1,)),
        ((2, 12), (12,)),
        ((2, 3, 4), (1, 3, 4)),
        ((2, 2, 3, 4), (2, 3, 4)),
        ((2, 1, 2, 3, 2), (12,)),
    ],
)
def test_the_shape_of_an_npz_file_says_which_rows_are_images(
    x: tuple[int, ...], row: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.arange(1, math.prod(x) + 1).reshape(x)
    data = load(saved(tmp_path / "a.npz", x=values, y=[0, 1]))
    assert data.shape == row
    flat = values.reshape(2, -1)
    np.testing.assert_array_equal(data.X * data_module._power(flat.astype(float)), flat)


@pytest.mark.parametrize("folder", [".", ""])
def test_a_folder_is_called_by_its_name(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path.name}: no image files in this folder"):
        load(folder)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((12,), Dense(128)),
        ((1, 3, 8), Dense(128)),
        ((1, 4, 4), Conv(64, 5, padding=2, contrast=True)),
        ((1, 8, 8), Conv(64, 5, padding=2, contrast=True)),
        ((1, 16, 28), Conv(64, 5, padding=2, contrast=True)),
        ((1, 17, 17), Conv(64, 7, padding=1, contrast=True)),
        ((1, 28, 28), Conv(64, 7, padding=1, contrast=True)),
        ((3, 32, 32), Conv(64, 7, padding=1, contrast=True)),
    ],
)
def test_the_network_follows_from_the_shape(shape: tuple[int, ...], layer: Conv | Dense) -> None:
    size = math.prod(shape)
    features = tuple(map(str, range(size)))
    data = Dataset("", np.zeros((2, size)), np.arange(2), None, ("a", "b"), features, 1, "", shape)
    network = network_for(data)
    assert network.layers[0] == layer
    assert network.input_shape == (shape if isinstance(layer, Conv) else (size,))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[1.0], [2.0]]}, "no column 'label', there are x"),
        ({"y": [0, 1], "z": [0, 1]}, "no rows of numbers in x or X, there are label, y, z"),
        ({"x": np.zeros((0, 3)), "y": []}, "no rows of numbers"),
        ({"x": ["a", "b"], "y": [0, 1]}, "no rows of numbers"),
        ({"x": np.zeros((2, 0)), "y": [0, 1]}, "X have a column"),
        (
            {"x": [[1.0, 2.0], [3.0, np.nan]], "y": [0, 1]},
            "column 'x1', data row 2: 'nan', expected a finite",
        ),
        ({"x": [[np.inf], [1.0]], "y": [0, 1]}, "column 'x0', data row 1: 'inf'"),
        ({"x": [[1.0], [2.0]], "y": [0, 1, 1]}, "2 rows, shapes"),
        ({"x": [[1.0], [2.0]], "y": [[0], [1]]}, "2 rows, shapes"),
        ({"x": [[1.0], [2.0]], "y": [0, 1], "site": ["a"]}, r"2 rows, shapes \[\(2,\), \(1,\)\]"),
        ({"x": [[1.0], [2.0]], "y": [1, 1]}, "every row has the label '1'"),
        ({"x": [[1.0], [2.0]], "y": [0.5, 1]}, "column 'label', data row 1: '0.5'"),
        ({"x": [[1.0], [2.0]], "y": [1j, 1]}, "expected a name or a whole number"),
        ({"x": [[1.0], [2.0]], "y": np.array([0, None])}, "is not an .npz file of plain arrays"),
    ],
)
def test_npz_refusals(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load(saved(tmp_path / "bad.npz", **arrays))


def test_npz_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for content in (b"", b"x,label\n", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays"):
            load(str(path))
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(DataError, match=r"is not an \.npz file of plain arrays"):
        load(str(path))


def test_sources_that_do_not_exist(tmp_path: Path) -> None:
    known = r"give heart, mnist5k, digits, synthetic\[:A,B\], flwr:NAME, postgresql://…, a folder or an existing file \(\.npz, \.csv"
    for source in (
        "iris",
        str(tmp_path / "absent.csv"),
        written(tmp_path / "a.doc", "x"),
        str(tmp_path / "no"),
    ):
        with pytest.raises(DataError, match=known):
            load(source)
    with pytest.raises(DataError, match="heart has its own site and label columns"):
        load("heart", label_column="chol")
    source = saved(tmp_path / "a.npz", x=[[1.0], [2.0]], y=[0, 1])
    with pytest.raises(DataError, match="no column 'ward', there are"):
        load(source, site_column="ward")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones((2, 3))}, "a name for each column"),
        ({"X": np.ones((2, 2), np.float32)}, "must be float64"),
        ({"y": np.array([0, 2])}, r"int64 in 0\.\.1"),
        ({"shape": (3,)}, r"2 columns cannot be rows of shape \(3,\); \(features,\) or \(channels, height"),
        ({"shape": ()}, r"cannot be rows of shape \(\)"),
        ({"shape": (1, 2)}, r"cannot be rows of shape \(1, 2\)"),
        ({"shape": (-1, -2, 1)}, "cannot be rows of shape"),
        ({"row_norm": 1.0}, "longer than the public bound 1"),
        ({"X": np.array([[1.0, 0.5], [1.0, np.nan]])}, "longer than the public bound"),
    ],
)
def test_a_dataset_is_valid_or_does_not_exist(change: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "name": "tiny",
        "X": np.array([[1.0, 0.5], [1.0, -0.5]]),
        "y": np.array([0, 1]),
        "site": None,
        "classes": ("a", "b"),
        "features": ("1", "x"),
        "row_norm": 1.5,
        "note": "",
        "shape": (2,),
    }
    assert Dataset(**fields).name == "tiny"
    with pytest.raises(DataError, match=message):
        Dataset(**(fields | change))
