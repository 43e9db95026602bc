"""A kit may bring several studies: one party, one roster, one ledger, and a folder for each study."""

import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from typer.testing import CliRunner
from worlds.folders import RIDGE
from worlds.founded import NAMES, Founded, project
from worlds.patience import HANG

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: no deployed study is tested here")

from worlds.grids import LocalGrid, answering, without_an_engine

from secure_afl.federation import coordinator, papers, party
from secure_afl.federation.papers import Edition, Kit, Packed, Part
from secure_afl.federation.project import Project, parse, slug
from secure_afl.federation.record import record
from secure_afl.node import flower_app
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import MODEL, Folder, kept, study_folders
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.durable.store import Kept, Store
from secure_afl.protocol.files import keys
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.session.errors import FileError
from secure_afl.simulations.cli.main import app
from secure_afl.sums.aggregation import MaskedAggregator

STUDIES = ("mortality", "stroke")
CODED = """\
backend = "mask"
codebook = "stroke-codebook.toml"
max_rows = 90
[ridge]
"""
BOOK = """\
least_rows = 1
[columns.a]
kind = "number"
range = [-1, 1]
[columns.b]
kind = "number"
range = [-8, 8]
[outcome]
column = "sick"
kind = "classes"
classes = ["no", "yes"]
"""


class Several(Founded):
    """All have joined two studies, the second with a codebook, and accepted the roster."""

    def __post_init__(self) -> None:
        listed = f"study = {[f'{name}.toml' for name in STUDIES]}\n"
        (self.root / "project.toml").write_text(project(*NAMES) + listed)
        (self.root / "mortality.toml").write_text(f'backend = "mask"\n{RIDGE}')
        (self.root / "stroke.toml").write_text(CODED)
        (self.root / "stroke-codebook.toml").write_text(BOOK)
        self.office = self.root / "office"
        coordinator.provision(self.root / "project.toml", self.office)
        self.joined = {name: self.join(name) for name in NAMES}
        edition = self.roster()
        for folder in self.folders.values():
            party.accept(folder, self.file(edition))

    def at(self, name: str, study: str) -> Path:
        """A party's folder of a study."""
        return self.folders[name] / "studies" / study


@dataclass
class Study:
    """The folders of one study, by the roster's order."""

    folders: list[Path]
    server: Path
    parties: Parties
    names: list[str]


@pytest.fixture
def several(tmp_path: Path) -> Several:
    return Several(tmp_path)


def filled(several: Several, study: str) -> Study:
    """Each party puts other rows into the study's folder, and approves it."""
    server = several.office / "server" / "studies" / study
    parties = Folder(server).terms()[0].parties
    names = [one.name for one in parties.clients.members]
    draws = np.random.default_rng(STUDIES.index(study))
    for name in names:
        rows = draws.uniform(-1, 1, (12, 3)) * (1.0, 8.0, 1000.0)
        lines = [f"{a},{b},{c},{'yes' if a > b / 8 else 'no'}" for a, b, c in rows.tolist()]
        (several.at(name, study) / "rows.csv").write_text("\n".join(["a,b,c,sick", *lines, ""]))
        Folder(several.at(name, study)).approve("an operator", "a test")
    return Study([several.at(name, study) for name in names], server, parties, names)


@pytest.mark.slow
def test_both_studies_of_a_kit_are_learned(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    without_an_engine(monkeypatch)
    for number, name in enumerate(STUDIES, 1):
        study = filled(several, name)
        flower_app.serve(LocalGrid(len(NAMES), answering(study)), study.server, HANG, 0.01)
        (weights,) = kept(study.server, MODEL)
        assert all(np.array_equal(kept(folder, MODEL)[0], weights) for folder in study.folders)
        agreed = Folder(study.server).terms()[1]
        rows = [Folder(folder).data(agreed) for folder in study.folders]
        whose = np.concatenate([[name] * len(one.y) for name, one in zip(study.names, rows, strict=True)])
        X, y = np.vstack([one.X for one in rows]), np.concatenate([one.y for one in rows])
        with closing(MaskedAggregator()) as aggregator:
            expected = agreed.estimator(aggregator).fit(X, y, whose)
        assert np.array_equal(weights, np.asarray(expected.weights_))
        log = several.folders[NAMES[0]] / "audit.jsonl"
        page = record(study.folders[0], {str(log): log.read_bytes()})
        assert dict(page.parts[0].facts)["Project"] == "A study"
        with zipfile.ZipFile(several.kit(NAMES[0])) as archive:
            readme = archive.read("README.md").decode()
        assert f"study approve /srv/secure-afl/studies/{name} " in readme
        home = several.folders[NAMES[0]]
        _, identity = keys.read_key(home / "identity.key", keys.service_passphrase)
        with closing(Store(home / "state.db", identity)) as store:
            assert store.ledger.data_sets() == [f"rows, {one}" for one in STUDIES[:number]]
    homes = [several.office / "server", *several.folders.values()]
    report = verify({str(one): (one / "audit.jsonl").read_bytes() for one in homes})  # one log each
    assert (report.findings, report.missing, len(report.sessions)) == ((), (), len(STUDIES))


def test_all_folders_have_the_studies_one_roster_and_nothing_of_them_above(several: Several) -> None:
    server = several.office / "server"
    edition = coordinator.latest(several.office)
    assert edition is not None
    assert [name for name, _ in edition.studies] == list(STUDIES)
    for home in (server, *several.folders.values()):
        assert [one.name for one in study_folders(home)] == list(STUDIES)
        assert coordinator.digests(home, STUDIES) == edition.studies
        assert not {"study.toml", "roster.toml", "data.toml"} & {one.name for one in home.iterdir()}
        assert all(Folder(one).terms()[0].parties == edition.parties for one in study_folders(home))
    assert not (server / "policy.toml").exists()  # each study has its own there
    assert several.joined[NAMES[0]].studies == edition.studies


def test_a_table_for_all_studies_is_refused(several: Several) -> None:
    """Whichever study came first would spend its rows."""
    for table in ("/data/rows.csv", "../rows.csv", "postgresql://db/rows"):
        with pytest.raises(FileError, match="no table serves two studies"):
            party.join(several.kit(NAMES[0]), several.root / "new", table, "rows")
    assert not (several.root / "new").exists()


@pytest.mark.parametrize("change", [lambda one: one[::-1], lambda one: one[:1], lambda one: (*one, one[0])])
def test_a_roster_is_for_all_studies_of_the_kit(several: Several, change: object) -> None:
    edition = coordinator.latest(several.office)
    assert edition is not None
    other = structs.replace(edition, number=2, studies=change(edition.studies))  # type: ignore[operator]
    with pytest.raises(FileError, match=r"expected a roster for the study mortality .*, stroke .* of"):
        party.accept(several.folders[NAMES[0]], several.file(papers.signed(other, several.key())))


def test_a_party_that_comes_gets_all_studies(several: Several) -> None:
    listed = f"study = {[f'{name}.toml' for name in STUDIES]}\n"
    (several.office / "project.toml").write_text(project(*NAMES, "D") + listed)
    coordinator.follow(several.office, "D comes")
    several.join("D")
    edition = coordinator.take_in(several.office, [several.answers["D"]], "D comes").edition
    assert edition is not None
    for folder in several.folders.values():
        party.accept(folder, several.file(edition))
    assert [one.name for one in study_folders(several.folders["D"])] == list(STUDIES)


@pytest.mark.parametrize(
    "listed", ['["mortality.toml"]', '["stroke.toml", "mortality.toml"]', '"mortality.toml"']
)
def test_a_project_keeps_the_studies_of_its_kits(several: Several, listed: str) -> None:
    """A roster for others would be refused by every party."""
    (several.office / "project.toml").write_text(project(*NAMES) + f"study = {listed}\n")
    with pytest.raises(FileError, match=r"expected the studies that c.zip has \(mortality, stroke\)"):
        coordinator.follow(several.office, "another list")
    with pytest.raises(FileError, match="expected the studies"):
        coordinator.take_in(several.office, list(several.answers.values()))
    assert len(list((several.office / "rosters").iterdir())) == 1


def test_a_session_of_any_study_keeps_the_roster_and_can_be_given_up(several: Several) -> None:
    server = several.office / "server"
    _, identity = keys.read_key(server / "identity.key", keys.service_passphrase, server=True)
    with closing(Store(server / "studies" / "stroke" / "state.db", identity)) as store:
        store.keep("masked 00", Kept(b"", b"", b""))
    with pytest.raises(FileError, match=r"studies/stroke/state.db: expected no session under way"):
        coordinator.follow(several.office, "nothing changed")
    assert Folder(server / "studies" / "stroke").give_up() == ["masked 00"]
    coordinator.follow(several.office, "nothing changed")


def test_the_server_is_checked_with_all_its_studies(several: Several) -> None:
    for study in STUDIES:
        found = list(looked_at(several.office / "server" / "studies" / study))
        assert not [one for one in found if one.fault]


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "-x", "x" * 62, "a b"])
def test_a_study_takes_no_other_folder(name: str) -> None:
    with pytest.raises(ValueError, match="a study's name of letters"):
        Packed(name, "")


@pytest.mark.parametrize("names", [("a", "a"), ("a", "A"), ("", "a"), ("", "")])
def test_several_studies_have_a_name_each(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a name each"):
        Kit("A", Part.CLIENT, "", tuple(Packed(name, "") for name in names), "", "", bytes(32))


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ('["a.toml", "a.toml"]', "names that differ"),
        ('["a b.toml", "A-B.toml"]', "names that differ"),
        ('["../a.toml"]', "beside the project"),
        ('["a"]', "beside the project"),
        ("[]", "length >= 1"),
        ("3", "study"),
    ],
)
def test_a_list_of_studies_that_cannot_be_meant_is_refused(listed: str, words: str) -> None:
    with pytest.raises(FileError, match=words):
        parse(project(*NAMES) + f"study = {listed}\n")


def test_one_study_in_a_list_has_a_folder_of_its_own() -> None:
    def studies(listed: str) -> dict[str, str]:
        made: Project = parse(project(*NAMES) + listed)
        return made.studies

    assert studies("") == {"": "study.toml"}
    assert studies('study = "x.toml"\n') == {"": "x.toml"}
    assert studies('study = ["Heart failure.toml"]\n') == {slug("Heart failure"): "Heart failure.toml"}


def test_the_commands_name_each_study(several: Several, tmp_path: Path) -> None:
    edition = coordinator.latest(several.office)
    assert isinstance(edition, Edition)
    for words in (
        ["provision", str(several.root / "project.toml"), str(tmp_path / "again")],
        ["join", str(several.kit("C")), str(tmp_path / "c again")],
        ["members", "update", str(several.office), "--reason", "none"],
    ):
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        named = [line.split()[1] for line in done.output.splitlines() if line.startswith("study")]
        assert named == list(STUDIES)
    done = CliRunner().invoke(app, ["accept", str(several.folders["C"]), str(several.file(edition))])
    said = "".join(done.output.split())
    assert all(f"studyapprove{several.at('C', name)}" in said for name in STUDIES)


def test_a_folder_of_several_studies_is_not_taken_for_one(several: Several) -> None:
    home = several.folders["C"]
    for words in (
        ["study", "show", str(home)],
        ["study", "approve", str(home), "--by", "A", "--reason", "B"],
        ["study", "revoke", str(home), "--by", "A", "--reason", "B"],
        ["study", "run", str(several.office / "server")],
    ):
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert done.exit_code == 1
        assert all(f"studies/{name}" in "".join(done.output.split()) for name in STUDIES)
