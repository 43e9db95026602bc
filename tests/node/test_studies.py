"""A party of several studies: one identity, ledger, audit log and connection; a folder for each study."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nodes are not tested here")

from typer.testing import CliRunner
from worlds.folders import RIDGE, Federation, Post, in_process, learned, model

from secure_afl.errors import DropoutWarning
from secure_afl.node.node import Desks
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import Folder, home, study_folders
from secure_afl.node.status import sections
from secure_afl.node.study import packed
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.session.errors import FileError, LocalProtocolError, PolicyError
from secure_afl.protocol.transport.post import Channel, Envelope, who_is_there
from secure_afl.simulations.cli.main import app

OTHER = RIDGE.replace("max_rows = 100", "max_rows = 90")


class Several(Federation):
    """Parties with two studies each, `first` and `second`, over tables of their own. `folders` are those of `first`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.homes = self.folders
        shared = {"identity.key", "identity.pub", "audit.jsonl"}
        for folder in self.homes:
            for name in ("first", "second"):
                (folder / "studies" / name).mkdir(parents=True)
            for file in [one for one in folder.iterdir() if one.is_file() and one.name not in shared]:
                for name in ("first", "second"):
                    if (file.name, name) != ("policy.toml", "second"):
                        shutil.copy(file, folder / "studies" / name / file.name)
                if file.name != "policy.toml":
                    file.unlink()
            second = folder / "studies" / "second"
            (second / "study.toml").write_text(f'backend = "mask"\n{OTHER}')
            (second / "data.toml").write_text('table = "rows.csv"\nname = "other rows"\n')
            rows = (second / "rows.csv").read_text().splitlines(keepends=True)
            (second / "rows.csv").write_text("".join(rows[:-1]))
            Folder(second).approve("an operator", "a test")
        self.of("first")

    def of(self, name: str) -> None:
        """Let tests speak of that study."""
        self.folders = [one / "studies" / name for one in self.homes]
        shutil.copy(self.folders[0] / "study.toml", self.server / "study.toml")


@pytest.fixture
def several(tmp_path: Path) -> Several:
    return Several(tmp_path)


def test_both_studies_are_learned_each_with_its_data_and_results(several: Several) -> None:
    for name in ("first", "second"):
        several.of(name)
        post = Post(several)
        weights = learned(several, post)
        assert post.refusals == []
        assert np.array_equal(weights, in_process(several))
        (session,) = post.sessions
        ended = Envelope(Channel.END, session, packed([weights]))
        assert all(b"end answered" in post.ask(number, ended) for number in range(4))
        (kept,) = (several.folders[0] / "runs").iterdir()  # of this run, also when another one follows
        assert np.array_equal(model(kept)[0], weights)
    at = several.homes[0]
    assert sorted(one.name for one in at.iterdir()) == sorted(
        ["audit.jsonl", "identity.key", "policy.toml", "state.db", "studies"]
    )
    titles = {one.title: one.lines for one in sections(at)}
    assert {"Study first", "Study second", "Sessions and data sets", "Audit log"} <= titles.keys()
    assert [line.split(":")[0] for line in titles["Sessions and data sets"]] == [
        "data set 'other rows'",
        "data set 'rows'",
    ]
    logs = {f"{k}": (one / "audit.jsonl").read_bytes() for k, one in enumerate(several.homes)}
    report = verify(logs)
    assert not report.findings
    assert len(report.sessions) == 2


def test_no_data_set_serves_two_studies(several: Several) -> None:
    """With one ledger per folder, two studies of one table could open two exact sums over the same rows."""
    post = Post(several)
    learned(several, post)
    (first,) = post.sessions
    several.of("second")
    for folder in several.folders:
        (folder / "data.toml").write_text('table = "rows.csv"\nname = "rows"\n')
    post = Post(several)
    with pytest.raises(Exception, match="clients"):
        learned(several, post)
    assert any("was used in session" in str(one) for one in post.refusals)
    ledger = next(one for one in looked_at(several.folders[0]) if one.what == "ledger")
    assert ledger.said == f"'rows' is in use by session {first.hex()[:8]}, which is under way"


def test_a_table_has_one_name_in_all_studies(several: Several) -> None:
    """Else the ledger would let it out twice."""
    first, second = several.homes[0] / "studies" / "first", several.homes[0] / "studies" / "second"
    (second / "data.toml").write_text('table = "../first/rows.csv"\nname = "renamed"\n')
    study = Folder(second).terms()[1]
    with pytest.raises(FileError, match="expected 'rows', by which first knows this table, got 'renamed'"):
        Folder(second).data(study)
    (second / "data.toml").write_text('table = "../first/rows.csv"\nname = "rows"\n')
    assert Folder(second).data(study)[3] == "rows"
    for file in (
        "study.toml",
        "rows.csv",
        "policy.toml",
        "roster.toml",
    ):  # and a study in the party's own folder
        shutil.copy(first / file, several.homes[0] / file)
    (several.homes[0] / "data.toml").write_text('table = "studies/first/rows.csv"\nname = "renamed"\n')
    with pytest.raises(FileError, match="by which first knows this table"):
        Folder(several.homes[0]).data(study)
    assert first != second


def test_a_copy_of_a_table_is_no_other_table(several: Several) -> None:
    """Weak: a copy under another name goes into both studies, and the sum of all sites less that of all but one is its vector."""
    first, second = several.homes[-1] / "studies" / "first", several.homes[-1] / "studies" / "second"
    study = Folder(first).terms()[1]
    vectors = [
        study.vector(0, Folder(one / "studies" / "first").data(study), "a site") for one in several.homes
    ]
    assert np.allclose(sum(vectors) - sum(vectors[:-1]), vectors[-1])
    shutil.copy(first / "rows.csv", second / "rows.csv")
    with pytest.raises(FileError, match="expected 'rows', by which first knows this table, got 'other rows'"):
        Folder(second).data(study)
    (second / "data.toml").write_text('table = "rows.csv"\nname = "rows"\n')
    assert Folder(second).data(study).name == "rows"


def test_an_approval_is_of_one_study(several: Several) -> None:
    Folder(several.homes[0] / "studies" / "second").revoke("an operator", "a test")
    assert Folder(several.homes[0] / "studies" / "first").approval() is not None
    several.of("second")
    post = Post(several)
    with pytest.warns(DropoutWarning, match="without site-0"):
        weights = learned(several, post)
    assert [type(one) for one in post.refusals] == [PolicyError]
    assert np.array_equal(weights, in_process(several, [1, 2, 3]))


def test_a_node_finds_the_study_that_a_server_names(several: Several) -> None:
    desks = Desks(several.homes[0])
    digests = [Folder(one).terms()[1].digest for one in study_folders(several.homes[0])]
    parties = several.parties
    for digest in digests:
        with desks.opened(digest) as endpoint:
            assert endpoint.answer(who_is_there(digest), 7)
            assert endpoint.name == parties.everybody[0].name
    for other, said in ((bytes(32), "got study 0000"), (b"", "the server names none")):
        with pytest.raises(LocalProtocolError, match=said), desks.opened(other):
            pass
    assert desks.largest() >= 2**17
    shutil.rmtree(several.homes[0] / "studies" / "second")
    desks.look_again()
    with desks.opened(b"") as endpoint:  # the only one
        assert endpoint.party == 0
    desks.close()


def test_an_operator_sees_all_studies_with_one_command(several: Several) -> None:
    first = several.homes[0]
    assert home(first / "studies" / "first") == first
    assert home(first) == first
    done = CliRunner().invoke(app, ["check", str(first)])
    assert done.output.count("approved by an operator") == 2
    assert "first" in done.output
    with closing(Folder(first / "studies" / "second").endpoint()) as endpoint:
        assert endpoint.party == 0
    (first / "study.toml").unlink(missing_ok=True)
    shutil.rmtree(first / "studies")
    with pytest.raises(FileError, match=r"expected a study here, or in studies/NAME/, found none"):
        study_folders(first)


def reordered(several: Several) -> None:
    """Let the second study be the first with its columns in another order: sums of equal lengths and bounds."""
    columns = '["a", "b", "c"]'
    assert columns in RIDGE
    for folder in (one / "studies" / "second" for one in several.homes):
        (folder / "study.toml").write_text('backend = "mask"\n' + RIDGE.replace(columns, '["c", "b", "a"]'))
        Folder(folder).approve("an operator", "a test")


def test_no_session_mixes_two_studies(several: Several) -> None:
    """The server addresses a party as a member of two studies with equal lengths and bounds but different columns."""
    reordered(several)
    other = [one / "studies" / "second" for one in several.homes]

    class Switching(Post):
        """Asks party 0 as of the other study from a phase on."""

        def ask(self, party: int, envelope: Envelope, address: int = 0) -> bytes:
            folder = other[0] if party == 0 and self.phases > 3 else several.folders[party]
            with closing(Folder(folder).endpoint()) as endpoint:
                return endpoint.answer(envelope, address)

    post = Switching(several)
    with pytest.warns(DropoutWarning, match="without site-0"):
        learned(several, post)
    assert post.refusals
    assert all("does not fit this party" in str(one) for one in post.refusals)


def test_the_end_of_one_studys_session_plants_no_model_in_another(several: Several) -> None:
    reordered(several)
    post = Post(several)
    weights = learned(several, post)
    (session,) = post.sessions
    end = Envelope(Channel.END, session, packed([weights]))
    second = several.homes[0] / "studies" / "second"
    with closing(Folder(second).endpoint()) as endpoint, pytest.raises(PolicyError, match="of this study"):
        endpoint.answer(end, 0)
    assert not (second / "model.npz").exists()
    with closing(Folder(several.folders[1]).endpoint()) as endpoint:
        endpoint.answer(end, 1)
    assert np.array_equal(model(several.folders[1])[0], weights)
