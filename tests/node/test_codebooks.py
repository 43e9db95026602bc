"""A deployed study by a codebook: the same features, model and refusals as in one process."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from worlds.coded import Coded

from secure_afl.node import study as study_file
from secure_afl.node.site import Folder
from secure_afl.protocol.session.errors import FileError
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset
from secure_afl.simulations.data.dataset import load

BOOK = dataset._FOLDER / "heart.toml"
STUDY = 'backend = "mask"\nmax_rows = 1000\n'


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    return Coded(tmp_path_factory.mktemp("hospitals") / "here", load("heart"))


def test_a_session_over_raw_tables_is_that_of_one_process(hospitals: Coded) -> None:
    data, (_, study) = hospitals.data, Folder(hospitals.server).terms()
    for part, folder in zip(hospitals.parts, hospitals.folders, strict=True):
        assert (folder / "rows.csv").read_text().startswith("id,age,sex,dataset,cp,")
        X, y, _ = Folder(folder).data(study)
        assert np.array_equal(X, data.X[part.train])
        assert y.tolist() == [data.classes[place] for place in data.y[part.train]]
    assert data.site is not None
    here = study.estimator().fit(data.X, np.array(data.classes)[data.y], data.site)
    assert np.array_equal(hospitals.weights(), here.weights_)


def test_a_study_refuses_cells_as_run_does(tmp_path: Path) -> None:
    parties = Coded(tmp_path / "here", load("heart"))
    table = parties.folders[0] / "rows.csv"
    lines = table.read_text().splitlines()
    lines[2] = lines[2].replace("Male", "male")
    lines[5] = lines[5].replace("normal", "abnormal")
    table.write_text("\n".join(lines) + "\n")
    arguments = [
        ["flower", "check", str(parties.folders[0])],
        ["run", "--data", str(table), "--codebook", str(BOOK)],
    ]
    for one in arguments:
        done = CliRunner().invoke(main.app, one, env={"COLUMNS": "200"})
        assert done.exit_code == 1
        assert "column 'sex', data row 2: 'male', expected one of 'Female', 'Male'" in done.output
        assert "'abnormal', expected one of 'normal'" in done.output
    with pytest.raises(FileError) as refused:
        Folder(parties.folders[0]).checked()
    assert "data row 2" in str(refused.value)
    assert "'male'" not in str(refused.value)


def test_a_codebook_stands_in_the_study_or_beside_it(tmp_path: Path) -> None:
    (tmp_path / "codebook.toml").write_text(BOOK.read_text())
    (tmp_path / "study.toml").write_text(f'{STUDY}codebook = "codebook.toml"\n[ridge]\n')
    beside = study_file.read(tmp_path / "study.toml")
    inside = (
        BOOK.read_text().replace("[columns]", "[codebook.columns]").replace("[outcome]", "[codebook.outcome]")
    )
    assert study_file.parse(f"{STUDY}[ridge]\n[codebook]\n{inside}") == beside
    assert len(beside.features) == 30
    assert (beside.label, beside.classes) == ("num", ("absent", "present"))
    assert len(beside.plan(4)) == 1


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ('codebook = "none.toml"\n[ridge]\n', r"none\.toml: cannot be read: No such file"),
        ("codebook = 3\n[ridge]\n", "expected codebook as the name of a file"),
        (
            'codebook = "c.toml"\nlabel = "num"\n[ridge]\n',
            "expected a codebook, or features, label and classes, got both",
        ),
        ('codebook = "c.toml"\n[ridge]\nrow_norm = 3.0\n', "expected bounds of the codebook, got row_norm"),
        ("[ridge]\n", "expected features and a label"),
        ('codebook = "broken.toml"\n[ridge]\n', r"broken\.toml: columns\.age: expected a range"),
        (
            'codebook = "c.toml"\n[fedacnnl]\ninput_shape = [31]\nlayers = [["Dense", 6], ["ReLU"]]\n',
            "expected 31 features for the input shape, got 30",
        ),
    ],
)
def test_contradictions_are_refused(study: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(BOOK.read_text())
    (tmp_path / "broken.toml").write_text(BOOK.read_text().replace("18, 100", "100, 18"))
    (tmp_path / "study.toml").write_text(STUDY + study)
    with pytest.raises(FileError, match=message):
        study_file.read(tmp_path / "study.toml")
