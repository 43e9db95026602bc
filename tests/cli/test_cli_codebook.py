"""`secure-afl codebook` as a person meets it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_afl.cli.codebook import runs
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset
from secure_afl.tables import codebook as codebooks
from secure_afl.tables.draft import rounded_range

TABLE = """id;ward;age;sex;bp;smoker;note;sick
1;A;54,5;m;120;yes;x1;1
2;A;;f;130;no;y2;0
3;B;17;m;-999;no;12;0
4;B;61;f;141;?;z3;1
5;B;45;f;150;no;;0
6;B;70;m;150;no;u;NA
"""
BOOK = """
site = "ward"
filter = "age >= 18 or age is missing"

[columns]
age = { kind = "number", range = [18, 100], unit = "years", missing = [""] }
sex = { kind = "category", levels = ["f", "m"] }
bp = { kind = "number", range = [60, 140], unit = "mm Hg", missing = ["-999"], when_missing = "leave out" }
smoker = { kind = "yes/no", missing = ["?"] }

[outcome]
kind = "classes"
column = "sick"
classes = { well = ["0"], ill = ["1"] }
missing = ["NA"]
"""


def said(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "a.csv").write_text(TABLE)
    (tmp_path / "book.toml").write_text(BOOK)
    return tmp_path / "a.csv"


def test_a_draft_is_a_codebook_to_finish(table: Path) -> None:
    out = table.parent / "draft.toml"
    code, text = said(
        "codebook", "draft", table, "--decimal", ",", "--outcome", "sick", "--site", "ward", "--out", out
    )
    assert code == 0
    assert "Its ranges tell of your rows: replace them." in text
    content = out.read_text()
    for line in (
        "They must come from what is known of each",
        "# id: left out, it numbers the rows",
        'age = { kind = "number", range = [0, 100], unit = "", missing = [""] }  # replace the range',
        'sex = { kind = "category", levels = ["f", "m"] }  # the first is the reference',
        'bp = { kind = "number", range = [0, 200], unit = "", missing = ["-999"] }  # replace the range',
        'smoker = { kind = "yes/no", yes = ["yes"], no = ["no"], missing = ["?"] }',
        '# note: left out, it has numbers and other cells such as ["u", "x1", "y2"]',
        'classes = ["0", "1"]',
        'missing = ["NA"]  # these rows are left out',
    ):
        assert line in content
    book = codebooks.read(out)
    assert (list(book.columns), book.site) == (["age", "sex", "bp", "smoker"], "ward")
    assert said("codebook", "check", table, out, "--decimal", ",")[0] == 0
    assert said("codebook", "draft", table, "--decimal", ",", "--outcome", "nothing")[0] == 1
    assert "# [outcome]" in said("codebook", "draft", table, "--decimal", ",")[1]


def test_a_draft_points_at_names_of_people_and_at_outcomes_that_may_be_quantities(tmp_path: Path) -> None:
    rows = [f"{1000 + 7 * at},{at % 50}.5,{at % 4}.0" for at in range(120)]
    (tmp_path / "a.csv").write_text("\n".join(["pid,bp,pain", *rows]))
    text = said("codebook", "draft", tmp_path / "a.csv", "--outcome", "pain")[1]
    pid, bp = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("pid", "bp"))
    assert pid.endswith("# replace the range; if it names people, as no two rows have the same, remove it")
    assert bp.endswith("# replace the range")
    assert '# or, for a quantity: kind = "number", range = [0, 5]' in text


def test_check_lists_every_cell_and_what_becomes_of_rows(table: Path) -> None:
    code, text = said("codebook", "check", table, table.parent / "book.toml")
    assert code == 1
    for line in (
        "column 'age': expected a number from 18 to 100 years\n    '54,5' in data row 1\n",
        "if the comma is a decimal comma, say so (decimal)",
        "column 'bp': expected a number from 60 to 140 mm Hg\n    '141' in data row 4\n    '150' in data rows 5-6\n",
        "2 kinds of fault",
    ):
        assert line in text
    table.write_text(TABLE.replace("150", "110").replace("141", "-999"))
    code, text = said("codebook", "check", table, table.parent / "book.toml", "--decimal", ",")
    assert code == 0
    text = " ".join(text.replace("│", " ").split())
    for words in (
        "rows: 6 in the table, 3 used; 1 left out by the filter; 2 left out for a missing value",
        "age number 18 to 100 years 1, flagged",
        "bp number 60 to 140 mm Hg 1, left out",
        "sick outcome well, ill 1, left out",
        "columns that are not used: id, note",
        "features: 6;",
        "every cell fits",
    ):
        assert words in text


def test_a_broken_codebook_is_refused_by_name(table: Path) -> None:
    book = table.parent / "book.toml"
    book.write_text(BOOK.replace("18, 100", "100, 18"))
    code, text = said("codebook", "check", table, book)
    assert code == 1
    assert "book.toml: columns.age: expected a range [low, high]" in text


def test_the_data_that_ship_fit_their_codebook(table: Path) -> None:
    folder = dataset._FOLDER
    code, text = said("codebook", "check", folder / "heart_disease_uci.csv", folder / "heart.toml")
    assert code == 0
    assert "rows: 920 in the table, 920 used" in text
    code, _ = said("run", "--data", folder / "heart_disease_uci.csv", "--codebook", folder / "heart.toml")
    assert code == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (31, 75, (0, 100)),
        (-3, 0.4, (-5, 0.5)),
        (0, 0, (0, 1)),
        (2, 2, (0, 2)),
        (1e5, 3e5, (0, 5e5)),
        (-1, -0.2, (-1, 0)),
    ],
)
def test_ranges_are_rounded_outwards(low: float, high: float, expected: tuple[float, float]) -> None:
    assert rounded_range(low, high) == expected


def test_rows_that_follow_each_other_are_one() -> None:
    assert runs([5, 1, 2, 3, 9, 10, 7]) == "1-3, 5, 7, 9-10"


@pytest.mark.parametrize(
    ("cells", "outcome", "expected"),
    [
        ("1,5;a\n2,25;b\n3,0;a", "y", "# x: left out, numbers with commas; draft again with --decimal ,"),
        ("a;1,5\nb;2,25\na;3,0", "y", '# "y": numbers with commas; draft again with --decimal ,'),
        ("UK;a\nUK;b\nUK;a", "y", '# x: left out, every row has "UK"'),
        ("1912;a\n1912;b\n1912;a", "y", '# x: left out, every row has "1912"'),
        (
            "1;a\n2;a\n4;a",
            "y",
            '# "y" has ["a"] in every row: from these rows alone there is nothing to learn',
        ),
        ("80%;a\n81%;b\n80%;b", "y", '# x: left out, it has cells such as ["80%", "81%"]: write percentages'),
        ("1;a\n1;a\n2;b", "y", "# x tells the outcome of every row"),
        ("-9.0;a\n31;b\n32;b\n34;a", "y", 'missing = ["-9.0"]'),
        ("falsch;a\nwahr;b\nwahr;a", "y", 'x = { kind = "yes/no", yes = ["wahr"], no = ["falsch"] }'),
        ("\n".join(f"{at**2};case {at}" for at in range(40)), "y", '# "y" has 40 different words, such as'),
    ],
)
def test_a_draft_says_what_its_owner_must_decide(
    cells: str, outcome: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(f"x;y\n{cells}\n")
    code, text = said("codebook", "draft", tmp_path / "rows.csv", "--outcome", outcome)[:2]
    assert code == 0
    assert expected in text


def test_a_header_with_gaps_says_what_leaves_them(tmp_path: Path) -> None:
    for header, remedy in (
        ("Patients,,Outcome,", "remove the rows above the names"),
        (",a,b,c", "index of a data frame"),
    ):
        (tmp_path / "rows.csv").write_text(f"{header}\n1,2,3,4\n")
        code, *texts = said("codebook", "draft", tmp_path / "rows.csv")
        assert code == 1
        assert remedy in " ".join(" ".join(texts).split())
