"""A deployed study whose later sessions bring rows into its sum and take rows out."""

import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from worlds.coded import FLAGS, Coded, flag_table
from worlds.folders import RIDGE, Federation, Post, model, with_a_key
from worlds.patience import HANG

from secure_afl.errors import DataError
from secure_afl.models.change import Change
from secure_afl.node import ahead, changes
from secure_afl.node import study as study_file
from secure_afl.node.changes import KEPT, Keeping
from secure_afl.node.preflight import looked_at
from secure_afl.node.site import MODEL, REPORT, Folder
from secure_afl.node.study import packed
from secure_afl.protocol.durable.store import snapshot
from secure_afl.protocol.files import roster
from secure_afl.protocol.files.keys import read_key
from secure_afl.protocol.session.errors import FileError, PolicyError, RoundAbortedError
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.transport.post import Channel, Envelope
from secure_afl.simulations.cli.main import app
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.sums.remote import Elsewhere, RemoteMaskedAggregator

FIRST = 120  # rows of each site in the first session


class Hospitals:
    """Three hospitals with tables that have a column for the batch and one for the withdrawal of each row."""

    def __init__(self, root: Path, also: str = "") -> None:
        self.text = RIDGE.replace("max_rows = 100", f"max_rows = 500\nkeeps_sum = true\n{also}")
        self.world = Federation(root, clients=3, study=self.text)
        self.draws, self.tables = np.random.default_rng(1), [list[list[str]]() for _ in range(3)]
        for at in range(3):
            self.bring(at, FIRST, "")
        self.post = Post(self.world)
        self.session = b""

    def bring(self, at: int, rows: int, batch: str) -> None:
        """Rows of a hospital, put where they come in its table: anywhere, in their order."""
        for row in self.draws.uniform(-1, 1, (rows, 3)) * (1.0, 8.0, 1000.0):
            sick = "yes" if row[0] * 8 > row[1] else "no"
            self.tables[at].append([*map(repr, row.tolist()), sick, batch, ""])
        self.write(at)

    def withdraw(self, at: int, rows: range, name: str) -> None:
        for row in rows:
            self.tables[at][row][5] = name
        self.write(at)

    def write(self, at: int, columns: bool = True) -> None:
        folder = self.world.folders[at]
        with (folder / "rows.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["a", "b", "c", "sick", "batch", "leaves"])
            writer.writerows(self.tables[at])
        said = 'table = "rows.csv"\nname = "2026"\n' + (
            'batch = "batch"\nwithdrawn = "leaves"\n' if columns else ""
        )
        (folder / "data.toml").write_text(said)

    def agree(self) -> Any:
        """The study's next version, approved at each; gives its terms."""
        self.send()
        for folder in self.world.folders:
            Folder(folder).approve("an operator", "a change")
        return Folder(self.world.server).terms()

    def send(self) -> None:
        """Everybody gets the study's next version."""
        text = self.text
        if self.session:
            text = text.replace(
                "keeps_sum = true\n", f'keeps_sum = true\ncontinues = "{self.session.hex()}"\n'
            )
        for folder in (*self.world.folders, self.world.server):
            (folder / "study.toml").write_text(f'backend = "mask"\n{text}')

    def opened(self) -> tuple[Any, Any, Any]:
        """The next session: study, layers and estimator of the server, which keeps the sum."""
        terms, study = self.agree()
        self.post = Post(self.world)
        aggregator = RemoteMaskedAggregator(Elsewhere(self.world.parties, self.post.carrier), terms.policy)
        keeping = Keeping(aggregator, study, self.world.server)
        layers, fitted = study.learn(keeping, self.world.names)
        keeping.keep()
        return study, layers, fitted

    def learned(self) -> Any:
        """The next session with its end; the server's estimator."""
        _, layers, fitted = self.opened()
        (self.session,) = self.post.sessions
        for party in range(3):
            self.post.ask(party, Envelope(Channel.END, self.session, packed(layers)))
            np.testing.assert_array_equal(model(self.world.folders[party])[0], layers[0])
        return fitted

    def prepared(self, at: int) -> changes.Prepared:
        folder = Folder(self.world.folders[at])
        terms, study = folder.terms()
        return folder.prepared(study, terms.parties.clients)

    def pooled(self) -> Any:
        """A fit of the rows that are in, in one process."""
        study = study_file.parse(f'backend = "mask"\n{self.text}')
        rows = [(one, at) for at, table in enumerate(self.tables) for one in table if not one[5]]
        X = np.array([[float(cell) for cell in one[:3]] for one, _ in rows])
        y, site = np.array([one[3] for one, _ in rows]), np.array([self.world.names[at] for _, at in rows])
        aggregator: Any = MaskedAggregator()
        return study.estimator(aggregator).fit(X, y, site)

    def ledger(self, at: int) -> list[str]:
        folder = self.world.folders[at]
        with snapshot(folder / "state.db", read_key(folder / "identity.key", bytes)[1]) as store:
            return list(store.ledger.data_sets())


def assert_same(model: Any, other: Any) -> None:
    """Bit for bit."""
    np.testing.assert_array_equal(model.weights_, other.weights_)
    np.testing.assert_array_equal(model.statistics_.gram, other.statistics_.gram)
    assert model.certificate_ == other.certificate_


@pytest.mark.slow
def test_batches_come_into_a_deployed_sum_and_rows_leave_it(tmp_path: Path) -> None:
    """Each party has the model of the rows that are in, bit for bit, from sums that it checked; its ledger names the batches."""
    hospitals = Hospitals(tmp_path)
    assert_same(hospitals.learned(), hospitals.pooled())
    hospitals.bring(0, 70, "december")
    hospitals.bring(2, 80, "winter")
    assert_same(hospitals.learned(), hospitals.pooled())
    hospitals.withdraw(0, range(FIRST, FIRST + 70), "all of december")
    hospitals.withdraw(1, range(50), "consent 1")
    assert_same(hospitals.learned(), hospitals.pooled())
    hospitals.bring(1, 60, "spring")  # the withdrawn rows are still in the tables
    assert_same(hospitals.learned(), hospitals.pooled())
    names = set(hospitals.ledger(0))
    assert {"2026", "2026: added december", "2026: withdrew all of december"} <= names
    (unchanged,) = names - {"2026", "2026: added december", "2026: withdrew all of december"}
    assert unchanged.startswith("2026: unchanged, ")
    assert {"2026: withdrew consent 1", "2026: added spring"} <= set(hospitals.ledger(1))
    for at in range(3):  # the audit log of each names its batches, and shows nobody else their names
        used = Folder(hospitals.world.folders[at]).used()
        assert len(used) == 4
        assert all(one.uploaded and one.logged for one in used)
        log = (hospitals.world.folders[at] / "audit.jsonl").read_text()
        assert "december" not in log
        assert "consent 1" not in log
    assert (hospitals.world.folders[0] / KEPT).stat().st_mode & 0o077 == 0


def typed(*words: object, answer: str = "") -> str:
    """What a command prints that ends well."""
    done = CliRunner().invoke(app, [str(one) for one in words], input=answer, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.long
def test_rows_come_and_leave_over_real_nodes(tmp_path: Path) -> None:
    """Nodes run on while the study goes to its next versions by `check`, `study approve` and `study run`.

    A single withdrawn row waits: `check` says so, and no session with it gives anybody a sum or a model.
    """
    pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: no real node is tested here")
    from secure_afl.simulations.network.loopback import Loopback

    hospitals = Hospitals(tmp_path / "parties")
    sites, server = hospitals.world.folders, hospitals.world.server
    with_a_key(hospitals.world)
    with Loopback(tmp_path / "network", sites, server) as network:

        def learned() -> None:
            hospitals.send()
            for folder in sites:
                typed("study", "approve", folder, "--by", "an operator", "--reason", "a change", answer="y\n")
            assert all("ready" in typed("check", folder) for folder in (*sites, server))
            network.run(deadline=HANG, limit=2 * HANG)
            expected = hospitals.pooled().weights_
            for folder in (*sites, server):
                np.testing.assert_array_equal(model(folder)[0], expected)
            hospitals.session = bytes.fromhex(json.loads((server / REPORT).read_text())["session"])

        learned()
        hospitals.bring(0, 70, "december")
        hospitals.bring(2, 80, "winter")
        learned()
        _, *unchanged = hospitals.ledger(1)
        hospitals.withdraw(1, range(7, 8), "consent 1")
        hospitals.agree()
        assert "expected at least 5 rows" in CliRunner().invoke(app, ["check", str(sites[1])]).output
        with pytest.raises(DataError, match="no model was learned"):
            network.run(deadline=HANG, limit=2 * HANG)
        assert not any((folder / MODEL).exists() for folder in (*sites, server))
        assert hospitals.ledger(1) == ["2026", *unchanged]  # nothing left it
        hospitals.withdraw(1, range(50), "consent 1")
        learned()
    logs = [folder / "audit.jsonl" for folder in (server, *sites)]
    said = typed("audit", "verify", *logs, "--roster", server / "roster.toml")
    assert said.rstrip().endswith("every line is signed and in its place, and the logs agree")
    # Of the zeros of the others, as far as they had left when the row that waited was refused.
    assert said.count("nothing was opened") <= 2
    assert "2026: added december" in hospitals.ledger(0)
    assert "2026: withdrew consent 1" in hospitals.ledger(1)


@pytest.mark.slow
def test_a_change_that_would_show_a_row_waits_at_its_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rule, the two sums that any party keeps give the withdrawn row, word for word."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    before = changes.read(hospitals.world.folders[2]).sum
    hospitals.withdraw(0, range(7, 8), "consent 1")
    with pytest.raises(RoundAbortedError):
        hospitals.opened()
    assert any("expected at least 5 rows" in str(one) for one in hospitals.post.refusals)
    assert hospitals.ledger(0) == ["2026"]
    with monkeypatch.context() as weak:
        weak.setattr(Change, "check", lambda *said: None)
        hospitals.learned()
    after = changes.read(hospitals.world.folders[2]).sum
    assert before
    assert after
    gone = before.aggregate().total - after.aggregate().total
    row = np.array(hospitals.tables[0][7][:3], dtype=np.float64) / (1.0, 8.0, 1024.0)
    np.testing.assert_allclose(gone[1:4], row, atol=1e-9)  # of the packed triangle, ones first


@pytest.mark.slow
def test_a_site_answers_for_the_rows_that_are_in(tmp_path: Path) -> None:
    hospitals = Hospitals(tmp_path)
    hospitals.bring(1, 1, "early")
    with pytest.raises(FileError, match="without batches and withdrawals in the first session"):
        hospitals.prepared(1)
    hospitals.tables[1].pop()
    hospitals.write(1)
    hospitals.learned()
    hospitals.agree()
    table = [list(one) for one in hospitals.tables[1]]
    changed = [[*table[4][:3], "no" if table[4][3] == "yes" else "yes", "", ""]]
    for spoiled in (
        table[1:],
        [table[-1], *table[:-1]],
        [*table[:4], *changed, *table[5:]],
        [*table, table[0]],
    ):
        hospitals.tables[1] = spoiled
        hospitals.write(1)
        with pytest.raises(FileError, match="rows of known batches that are others"):
            hospitals.prepared(1)
    hospitals.tables[1] = table
    hospitals.bring(1, 70, "december")
    assert hospitals.prepared(1).contribution[1] == "2026: added december"
    said = {one.what: one.said for one in looked_at(hospitals.world.folders[1])}
    assert said["data"].endswith("this one gives '2026: added december'")
    assert said["ledger"] == "'2026: added december' is not used yet"
    hospitals.text = hospitals.text.replace("max_rows = 500", "max_rows = 5000")
    hospitals.agree()
    with pytest.raises(FileError, match="no more max_rows"):
        hospitals.prepared(1)
    at = hospitals.world.folders[1] / "data.toml"
    at.write_text(at.read_text().replace("2026", "2027"))
    with pytest.raises(FileError, match="expected the name '2026' of the rows of the first session"):
        hospitals.prepared(1)


def test_a_batch_is_coded_by_itself_and_stays_so(tmp_path: Path) -> None:
    """Levels that are rare in a batch go out as others; the coding of rows that are in does not change with it."""
    world = Coded(
        tmp_path / "here", flag_table(tmp_path), f"least_rows = 4\n{FLAGS}", also="keeps_sum = true\n"
    )
    folder, table = Folder(world.folders[0]), world.folders[0] / "rows.csv"
    terms, study = folder.terms()
    first = folder.prepared(study, terms.parties.clients)
    vector, _ = first.contribution
    encoding = terms.plan[0].spec(3).encoding(3)
    was = encoding.encode(np.asarray(vector)).view(np.int64)
    kept = changes.Sum(b"s" * 32, "", tuple(world.names), encoding, was.tobytes())
    changes.keep(folder.path, changes.Kept(kept, first.after))
    for at in (world.server, folder.path):
        text = (at / "study.toml").read_text()
        (at / "study.toml").write_text(
            text.replace("keeps_sum", f'continues = "{(b"s" * 32).hex()}"\nkeeps_sum')
        )
    header, *lines = table.read_text().splitlines()
    fresh = [f"s0,{n},{n % 2},{n // 2 % 2},{n // 4 % 2},{('no', 'yes')[n // 8 % 2]},new" for n in range(96)]
    fresh[0] = "s0,0,0,0,0,no,new"
    table.write_text("\n".join([f"{header},batch", *(f"{line}," for line in lines), *fresh]) + "\n")
    data = folder.path / "data.toml"
    data.write_text(data.read_text() + 'batch = "batch"\n')
    _, study = folder.terms()
    one = folder.prepared(study, terms.parties.clients)
    assert one.contribution[1] == "rows: added new"
    assert one.after.coded.startswith(first.after.coded)
    coded, used = (
        np.frombuffer(one.after.coded).reshape(-1, len(study.features)),
        np.frombuffer(one.after.used, np.bool_),
    )
    y = folder.data(study)[1]
    fit: Any = study.estimator()
    whole = encoding.encode(fit.vector(coded[used], y[used], "here", 0)).view(np.int64)
    np.testing.assert_array_equal(was + one.contribution[0], whole)


@pytest.mark.slow
def test_a_change_that_was_prepared_for_another_roster_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is scaled for a sum over other clients, and not all clients of the kept sum take part."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    hospitals.bring(0, 60, "december")
    terms, study = hospitals.agree()
    monkeypatch.setattr(ahead, "_SETTLED", 0)
    folder = Folder(hospitals.world.folders[0])
    known = ahead.Ahead(folder)
    known.refresh()
    assert known.known(study, 0)
    fewer = roster.Parties(Roster(terms.parties.clients.members[:2]), None)
    (folder.path / "roster.toml").write_text(roster.text(fewer))
    assert known.known(study, 0) is None
    with pytest.raises(FileError, match="all of them take part in every change"):
        folder.prepared(study, fewer.clients)


@pytest.mark.slow
def test_a_failed_change_is_made_again_as_it_was(tmp_path: Path) -> None:
    """The server opens the sum and says that it failed. Another change would give it the difference of the two."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    hospitals.bring(0, 60, "december")
    hospitals.opened()  # and no end: the sum is open
    for at in range(3):
        Folder(hospitals.world.folders[at]).give_up()
    hospitals.prepared(0)
    hospitals.tables[0].pop()
    hospitals.write(0)
    with pytest.raises(
        DataError, match="the session of the change 'december' failed, and these are not its rows"
    ):
        hospitals.prepared(0)


@pytest.mark.slow
def test_a_first_session_again_over_a_name_that_was_renewed(tmp_path: Path) -> None:
    """A first session was kept; its owner renews the data set, accepting what both sums show, and adds rows."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    for folder in hospitals.world.folders:
        Folder(folder).renew("2026", may_expose=True)
    hospitals.session = b""
    hospitals.bring(0, 30, "")
    assert_same(hospitals.learned(), hospitals.pooled())


@pytest.mark.slow
def test_a_server_says_that_another_session_ended(tmp_path: Path) -> None:
    """What a site gave to one session must not pass for its rows in another."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    hospitals.bring(0, 60, "december")
    _, layers, _ = hospitals.opened()
    (session,) = hospitals.post.sessions
    folder = hospitals.world.folders[0]
    kept = changes.read(folder)
    assert kept.leaving
    changes.keep(folder, changes.Kept(kept.sum, kept.rows, (bytes(32), kept.leaving[1])))
    with pytest.raises(PolicyError, match="expected what this party gave to session"):
        hospitals.post.ask(0, Envelope(Channel.END, session, packed(layers)))
    wrong = [layers[0] * 2]
    with pytest.raises(PolicyError, match="the server's is another"):
        hospitals.post.ask(1, Envelope(Channel.END, session, packed(wrong)))
    assert changes.read(hospitals.world.folders[1]).sum != changes.read(hospitals.world.server).sum
    hospitals.post.ask(2, Envelope(Channel.END, session, packed(layers)))
    one, two = (changes.read(at).sum for at in (hospitals.world.folders[2], hospitals.world.server))
    assert one == two


@pytest.mark.slow
def test_a_party_that_was_killed_at_the_end_takes_the_same_model_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    hospitals.bring(1, 60, "december")
    _, layers, _ = hospitals.opened()
    (session,) = hospitals.post.sessions
    end = Envelope(Channel.END, session, packed(layers))
    with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
        killed.setattr(
            "secure_afl.node.site.keep_run", lambda *said: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        hospitals.post.ask(1, end)
    once = changes.read(hospitals.world.folders[1])
    hospitals.post.ask(1, end)
    assert changes.read(hospitals.world.folders[1]) == once
    np.testing.assert_array_equal(model(hospitals.world.folders[1])[0], layers[0])


@pytest.mark.slow
def test_a_study_continues_the_last_session_alone(tmp_path: Path) -> None:
    """The same change to an older sum would let two sums be subtracted that were never meant to be."""
    hospitals = Hospitals(tmp_path)
    hospitals.learned()
    first = hospitals.session
    hospitals.session = bytes(32)
    with pytest.raises(
        FileError, match="expected the sum of session 00000000, which the study continues, found that of"
    ):
        hospitals.opened()
    hospitals.session = first
    hospitals.learned()
    hospitals.session = first
    with pytest.raises(RoundAbortedError):
        hospitals.opened()
    refused = [str(one) for one in hospitals.post.refusals]
    assert len(refused) == 3
    assert all("which the study continues, found that of session" in one for one in refused)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('keeps_sum = true\ncontinues = "12"\n', "64 digits from 0 to f, got '12'"),
        (f'continues = "{"ab" * 32}"\n', "expected keeps_sum = true with continues"),
        ("keeps_sum = true\nheld_out = 0.2\n", r"expected \[ridge\] with the backend mask"),
        ("keeps_sum = true\nrows_per_column = 5\n", r"expected \[ridge\] with the backend mask"),
    ],
)
def test_studies_whose_sum_cannot_change_are_refused(lines: str, message: str) -> None:
    with pytest.raises(FileError, match=message):
        study_file.parse(f'backend = "mask"\n{lines}{RIDGE}')
    with pytest.raises(FileError, match=r"expected \[ridge\] with the backend mask"):
        study_file.parse(f'backend = "bfv"\nkeeps_sum = true\n{RIDGE}')
    with pytest.raises(FileError, match="rows_per_column or class_weight"):
        study_file.parse(f'backend = "mask"\nkeeps_sum = true\n{RIDGE}class_weight = "balanced"\n')
    study = study_file.parse(f'backend = "mask"\nkeeps_sum = true\n{RIDGE}')
    study.check_policy(Policy(verify=frozenset({Verify.REPLAY})))
    with pytest.raises(PolicyError, match="for a study with keeps_sum"):
        study.check_policy(Policy(verify=frozenset({Verify.NONE})))
