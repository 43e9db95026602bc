"""A deployed study by a codebook: the same features, model and refusals as in one process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner
from worlds.coded import FLAGS, INSIDE, Coded, flag_table
from worlds.folders import Post, join

from secure_afl.crypto.errors import SecureAflError
from secure_afl.errors import DataError, DropoutWarning
from secure_afl.node import study as study_file
from secure_afl.node.site import Folder
from secure_afl.node.study import packed
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli import main
from secure_afl.simulations.data import dataset
from secure_afl.simulations.data.partition import partition
from secure_afl.simulations.study.run import run
from secure_afl.simulations.study.settings import Settings
from secure_afl.sums.remote import Elsewhere, remote
from secure_afl.tables import model as models
from secure_afl.tables.encoding import encode

BOOK = dataset._FOLDER / "heart.toml"
WIDE = {"COLUMNS": "200"}
STUDY = 'backend = "mask"\nmax_rows = 1000\n'


TABLE = dataset._FOLDER / "heart_disease_uci.csv"
PRESSURE = BOOK.read_text().replace("trestbps =", "# trestbps =").partition("[outcome]")[0] + (
    '[outcome]\nkind = "number"\ncolumn = "trestbps"\nrange = [60, 260]\nunit = "mm Hg"\nmissing = ["", "0"]\n'
)


def weighted(book: str) -> str:
    """The same, where a row counts as often as its patient has years."""
    weights = 'weights = { column = "age", largest = 100 }\n\n[columns]'
    return book.replace("\nage =", "\n# age =").replace("[columns]", weights, 1)


@pytest.mark.parametrize(
    "codebook", [BOOK.read_text(), PRESSURE, weighted(PRESSURE)], ids=["classes", "number", "weights"]
)
def test_a_session_over_raw_tables_is_that_of_one_process(codebook: str, tmp_path: Path) -> None:
    hospitals = Coded(tmp_path / "here", TABLE, codebook)
    design = encode(hospitals.book, hospitals.cells)
    assert design.site is not None
    study = Folder(hospitals.server).terms()[1]
    for name, folder in zip(hospitals.names, hospitals.folders, strict=True):
        X, *_ = Folder(folder).data(study)
        assert np.array_equal(X, design.X[design.site == name])
    there, here = hospitals.deployed(), hospitals.here()
    assert np.array_equal(there.weights_, here.weights_)
    expected = here.predict(design.X).tolist()
    servers = models.load(hospitals.server / "model.safetensors")
    assert servers.about.survivors == (tuple(hospitals.names),)
    assert servers.about.certificate == there.certificate_.bound
    assert len(servers.about.session) == 64
    for folder in hospitals.folders:
        model = models.load(folder / "model.safetensors")
        assert model.codebook == hospitals.book
        (checked,) = model.about.verified
        assert model.about == structs.replace(servers.about, verified=(checked,))
        assert model.ls_se is not None
        np.testing.assert_array_equal(model.ls_se, servers.ls_se)
        for one in (model, servers):
            predicted = one.predict(design).tolist()
            assert predicted == (expected if hospitals.book.classes else pytest.approx(expected, rel=1e-12))
    shown = CliRunner().invoke(main.app, ["show", str(hospitals.folders[0] / "model.safetensors")], env=WIDE)
    for text in (
        "95 % low",
        "SE",
        f"verified: yes, its party computed it from sums that it checked ({checked[:16]})",
        "VA Long Beach",
        "proven",
        f"session {model.about.session[:16]}",
    ):
        assert text in shown.output


def altered(content: bytes, change: Callable[[models.Model], models.Model]) -> bytes:
    return change(models.parse(content, "sent")).content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sent: replace(sent, coef=sent.coef + 1), "does not fit the weights beside it"),
        (
            lambda sent: replace(sent, about=structs.replace(sent.about, session="00")),
            "does not fit this session",
        ),
        (lambda sent: replace(sent, about=structs.replace(sent.about, backend="bfv")), "the study's backend"),
        (
            lambda sent: replace(sent, codebook=structs.replace(sent.codebook, least_rows=4)),
            "does not fit the study's codebook",
        ),
        (None, "expected a model file that `secure-afl` wrote"),
    ],
)
def test_a_model_file_that_does_not_fit_the_study_is_refused(
    change: Callable[[models.Model], models.Model] | None, message: str, tmp_path: Path
) -> None:
    hospitals = Coded(tmp_path / "here", TABLE, BOOK.read_text())
    folder = Folder(hospitals.server)
    fitted, study = hospitals.here(), folder.terms()[1]
    layers = packed([fitted.weights_])
    content = folder.keep_table_model(study, fitted, bytes(32))
    client = Folder(hospitals.folders[0]).endpoint()
    sent = altered(content, change) if change else content[:-1]
    join(hospitals.folders[0], bytes(32))
    with pytest.raises(DataError, match=message):
        client.answer(Envelope(Channel.END, bytes(32), layers + sent), 0)
    assert not (hospitals.folders[0] / "model.npz").exists()
    join(hospitals.folders[0], bytes(32))
    client.answer(Envelope(Channel.END, bytes(32), layers + content), 0)
    assert models.load(hospitals.folders[0] / "model.safetensors").ls_se is not None
    client.close()


def test_rows_count_by_their_weights_in_a_run(tmp_path: Path) -> None:
    """Against scikit-learn with the same weights on the pooled rows."""
    (tmp_path / "codebook.toml").write_text(weighted(BOOK.read_text()))
    rows = dataset.load(str(TABLE), codebook=tmp_path / "codebook.toml")
    parts = partition(rows, "site", None, 0)
    settings = Settings(backend=Backend.PLAIN, least_rows=1)
    learned = run(rows, parts, settings, lambda phase: None).learned
    train = np.concatenate([part.train for part in parts])
    assert rows.weights is not None
    X, y, weights = rows.X[train], rows.y[train], rows.weights[train]
    scaler = StandardScaler().fit(X, sample_weight=weights)
    reference = Ridge(1e-3 * weights.sum()).fit(scaler.transform(X), y, weights)
    np.testing.assert_allclose(
        learned.class_scores(rows.X)[:, 1], reference.predict(scaler.transform(rows.X)), rtol=0, atol=1e-8
    )
    with pytest.raises(DataError, match="rows without weights for fedacnnl"):
        run(rows, parts, Settings(model="fedacnnl", backend=Backend.PLAIN), lambda phase: None)


def test_a_party_with_another_codebook_refuses(tmp_path: Path) -> None:
    """Both codebooks give vectors of equal length and bounds, so that nothing else would reveal the wrong sum."""
    hospitals = Coded(tmp_path / "here", TABLE, BOOK.read_text())
    other = BOOK.read_text().replace('["0", "1", "2", "3"]', '["0", "3", "2", "1"]')
    (hospitals.folders[1] / "codebook.toml").write_text(other)
    Folder(hospitals.folders[1]).approve("an operator", "mistaken")
    (terms, ours), (_, others) = (Folder(folder).terms() for folder in hospitals.folders[:2])
    assert ours.plan(4)[0].length == others.plan(4)[0].length
    assert ours.plan(4)[0].statistic != others.plan(4)[0].statistic
    post, study = Post(hospitals), Folder(hospitals.server).terms()[1]
    aggregator = remote(Elsewhere(terms.parties, post.carrier), terms.policy, None)
    with pytest.warns(DropoutWarning):
        study.learn(aggregator, hospitals.names)
    assert any("Hungary" in str(refusal) and "study" in str(refusal) for refusal in post.refusals)


def test_a_study_refuses_cells_as_run_does(tmp_path: Path) -> None:
    parties = Coded(tmp_path / "here", TABLE, BOOK.read_text())
    table = parties.folders[0] / "rows.csv"
    lines = table.read_text().splitlines()
    lines[2] = lines[2].replace("Male", "male")
    lines[5] = lines[5].replace("normal", "abnormal")
    table.write_text("\n".join(lines) + "\n")
    arguments = [
        ["check", str(parties.folders[0])],
        ["run", "--data", str(table), "--codebook", str(BOOK)],
    ]
    for one in arguments:
        done = CliRunner().invoke(main.app, one, env={"COLUMNS": "200"})
        assert done.exit_code == 1
        assert "column 'sex', data row 2: 'male', expected one of 'Female', 'Male'" in done.output
        assert "'abnormal', expected one of 'normal'" in done.output
    with pytest.raises(FileError) as refused:
        Folder(parties.folders[0]).data(Folder(parties.folders[0]).terms()[1])
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
        (
            'codebook = "weighted.toml"\n[ridge]\n[privacy]\nepsilon = 1.0\ndelta = 1e-6\n',
            "expected rows without weights with .privacy.",
        ),
        (
            'codebook = "weighted.toml"\n[fedacnnl]\ninput_shape = [29]\nlayers = [["Dense", 6], ["ReLU"]]\n',
            "expected rows without weights for a network",
        ),
        ('codebook = "broken.toml"\n[ridge]\n', r"broken\.toml: columns\.age: expected a range"),
        (
            'codebook = "c.toml"\n[fedacnnl]\ninput_shape = [31]\nlayers = [["Dense", 6], ["ReLU"]]\n',
            "expected 31 features for the input shape, got 30",
        ),
    ],
)
def test_contradictions_are_refused(study: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(BOOK.read_text())
    (tmp_path / "weighted.toml").write_text(weighted(BOOK.read_text()))
    (tmp_path / "broken.toml").write_text(BOOK.read_text().replace("18, 100", "100, 18"))
    (tmp_path / "study.toml").write_text(STUDY + study)
    with pytest.raises(FileError, match=message):
        study_file.read(tmp_path / "study.toml")


@pytest.fixture
def flags(tmp_path: Path) -> Path:
    return flag_table(tmp_path)


def test_no_row_is_singled_out_in_a_sum_over_deployed_sites(flags: Path, tmp_path: Path) -> None:
    """With `least_rows = 1` a patient's row stands in the sum word for word."""
    from secure_afl.simulations.attacks.reading.leverage import singled_out  # needs TenSEAL

    for least_rows, read in ((1, [60.0]), (5, [])):
        hospitals = Coded(tmp_path / str(least_rows), flags, f"least_rows = {least_rows}\n{FLAGS}")
        there, here = hospitals.deployed(), hospitals.here()
        assert np.array_equal(there.weights_, here.weights_)
        statistics = there.statistics_
        assert np.array_equal(statistics.gram, here.statistics_.gram)
        columns = [0, *range(2, 6)]  # of ones, of three flags and their product
        rows = singled_out(statistics.gram, statistics.cross, columns)
        assert [50 + 50 * row[0] for row in rows] == pytest.approx(read)


def test_sites_that_agreed_on_other_least_rows_refuse_the_sum(flags: Path, tmp_path: Path) -> None:
    """The server cannot talk a site into a sum over rows that other sites code without merging levels."""
    hospitals = Coded(tmp_path / "here", flags, FLAGS)
    (hospitals.server / "codebook.toml").write_text(f"least_rows = 1\n{FLAGS}")
    terms, study = Folder(hospitals.server).terms()
    post = Post(hospitals)
    with pytest.raises(SecureAflError):
        study.learn(remote(Elsewhere(terms.parties, post.carrier), terms.policy, None), hospitals.names)
    assert len(post.refusals) == 3


def test_networks_are_bound_to_the_codebook_too() -> None:
    network = '[fedacnnl]\ninput_shape = [5]\nlayers = [["Dense", 4], ["ReLU"]]\nencoder = "mixed"\n'
    studies = [
        study_file.parse(f"{STUDY}{network}[codebook]\nleast_rows = {least}\n{INSIDE}") for least in (5, 6)
    ]
    ours, theirs = ([one.statistic for one in study.plan(4)] for study in studies)
    assert len(ours) == 2
    assert not set(ours) & set(theirs)


def test_whatever_a_codebook_says_is_in_the_digest_of_its_study() -> None:
    """The order of an ordinal's levels carries meaning; a digest of sorted tables would hide a change of it."""
    said = """
        [ridge]
        [codebook.columns.stage]
        kind = "ordinal"
        levels = { low = ["1"], mid = ["2"], high = ["3"] }
        [codebook.columns.age]
        kind = "number"
        range = [0, 99]
        [codebook.outcome]
        kind = "classes"
        column = "sick"
        classes = { no = ["n"], yes = ["y"] }
    """
    changes = [
        ('low = ["1"], mid = ["2"], high = ["3"]', 'mid = ["2"], high = ["3"], low = ["1"]'),
        ('low = ["1"]', 'low = ["0"]'),
        ('mid = ["2"]', 'mid = ["4"]'),
        ("[0, 99]", "[0, 100]"),
        ('no = ["n"], yes = ["y"]', 'yes = ["y"], no = ["n"]'),
    ]
    before = study_file.parse(STUDY + said).digest
    for old, new in changes:
        assert old in said
        assert study_file.parse(STUDY + said.replace(old, new)).digest != before, new
    assert study_file.parse(f"# a comment\n{STUDY}{said}").digest == before


def test_a_codebook_lies_beside_its_study(tmp_path: Path) -> None:
    (tmp_path / "codebook.toml").write_text(BOOK.read_text())
    (tmp_path / "study").mkdir()
    for path in ("../codebook.toml", str(tmp_path / "codebook.toml")):
        with pytest.raises(
            FileError, match="expected codebook as the name of a file beside the study, got the path"
        ):
            study_file.parse(f'{STUDY}codebook = "{path}"\n[ridge]\n', folder=tmp_path / "study")


def test_a_study_has_no_more_rounds_than_anybody_could_wait_for() -> None:
    with pytest.raises(FileError, match="expected rounds from 1 to 1000, got 1000000"):
        study_file.parse(
            f'{STUDY}features = ["a"]\nlabel = "b"\nclasses = ["0", "1"]\n[ridge]\nrow_norm = 1.0\nrounds = 1000000\n'
        )
