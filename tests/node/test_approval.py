"""A party takes part in a study that its operator approved, and in no other."""

import re
import threading
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner
from worlds.folders import RIDGE, Federation, Post, learned

from secure_afl.crypto.errors import SecureAflError
from secure_afl.errors import DropoutWarning
from secure_afl.node.site import AUDIT, Folder
from secure_afl.node.study import Study
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import Approved, Refused, Revoked, Role, Sent
from secure_afl.protocol.audit.log import AuditLog
from secure_afl.protocol.durable.store import Store, StoreError
from secure_afl.protocol.files import keys, roster
from secure_afl.protocol.session.errors import AuditError, FileError, PolicyError
from secure_afl.protocol.session.roster import Roster, grouped
from secure_afl.protocol.transport.post import Channel, Envelope, who_is_there
from secure_afl.simulations.cli.main import app

SESSION = bytes(32)


def asked(federation: Federation, party: int = 0) -> bytes:
    """What a party says to a message of a session; it can be of none, as nobody gets so far who has not approved it."""
    return Post(federation).ask(party, Envelope(Channel.MASKED, SESSION, b"x"))


def is_heard(federation: Federation) -> bool:
    """Whether a message is looked into: this one is nonsense, and refused for that."""
    with pytest.raises(SecureAflError) as caught:
        asked(federation)
    return not isinstance(caught.value, PolicyError)


def unapproved(root: Path) -> Federation:
    federation = Federation(root)
    for folder in federation.folders:
        (folder / AUDIT).unlink()
    return federation


def test_without_an_approval_a_party_says_who_it_is_and_nothing_else(tmp_path: Path) -> None:
    federation = unapproved(tmp_path)
    assert Post(federation).ask(0, who_is_there())
    for _ in range(2):
        with pytest.raises(PolicyError, match="is not approved at site-0"):
            asked(federation)
    assert Post(federation).ask(0, Envelope(Channel.END, SESSION)) == b""
    events = [entry.event for entry in read((federation.folders[0] / AUDIT).read_bytes()).entries]
    assert [one.kind for one in events if isinstance(one, Refused)] == ["PolicyError"] * 2


def test_an_approval_lets_it_take_part_and_a_revocation_does_not(tmp_path: Path) -> None:
    federation = unapproved(tmp_path)
    folder = Folder(federation.folders[0])
    folder.approve("Dr Noor", "ethics vote 12/26")
    assert is_heard(federation)
    folder.revoke("Dr Noor", "withdrawn")
    with pytest.raises(PolicyError, match="is not approved"):
        asked(federation)
    assert folder.approval() is None
    folder.approve("Dr Noor", "again")
    assert folder.approval() is not None


@pytest.mark.parametrize("changed", ["study", "roster"])
def test_what_changes_after_it_was_approved_must_be_approved_again(tmp_path: Path, changed: str) -> None:
    federation = Federation(tmp_path / "one")
    folder = federation.folders[0]
    if changed == "study":
        other = RIDGE.replace("max_rows = 100", "max_rows = 101")
        (folder / "study.toml").write_text(f'backend = "mask"\n{other}')
    else:
        members = federation.parties.clients.members
        (folder / "roster.toml").write_text(roster.text(roster.Parties(Roster(members[:3]), None)))
    with pytest.raises(PolicyError, match="is not approved at site-0"):
        asked(federation)
    Folder(folder).approve("an operator", "read again")
    assert is_heard(federation)


def test_nobody_approves_for_a_party_but_with_its_key(tmp_path: Path) -> None:
    """An approval is a signed line of the log; a line that was altered or copied from another party does not count."""
    federation = unapproved(tmp_path)
    Folder(federation.folders[1]).approve("an operator", "here")
    other = (federation.folders[1] / AUDIT).read_bytes()
    (federation.folders[0] / AUDIT).write_bytes(other)
    with pytest.raises(AuditError, match="expected an audit log of site-0 with its present key"):
        asked(federation)
    with pytest.raises(FileError, match="damaged or another's"):
        Folder(federation.folders[0]).approval()
    (federation.folders[1] / AUDIT).write_bytes(other.replace(b'"here"', b'"hier"'))
    with pytest.raises(AuditError, match="is damaged"):
        asked(federation, 1)


def test_the_same_study_has_one_digest_and_another_has_another(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    digests = {Folder(folder).terms()[1].digest for folder in (*federation.folders, federation.server)}
    assert len(digests) == 1
    study = federation.folders[0] / "study.toml"
    study.write_text("# a comment\n" + study.read_text())
    assert Folder(federation.folders[0]).terms()[1].digest in digests
    study.write_text('purpose = "another"\n' + study.read_text())
    assert Folder(federation.folders[0]).terms()[1].digest not in digests


def test_a_decision_waits_for_a_node_that_is_at_work(tmp_path: Path) -> None:
    federation = unapproved(tmp_path)
    folder = federation.folders[0]
    member, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    log = AuditLog(folder / AUDIT, identity, member.name, Role.CLIENT)
    threading.Timer(0.3, log.close).start()
    Folder(folder).approve("an operator", "a reason")
    assert Folder(folder).approval() is not None


def test_what_is_approved_is_what_was_shown(tmp_path: Path) -> None:
    """The weak design approves a study that was swapped after the operator read it."""
    federation = unapproved(tmp_path)
    folder = federation.folders[0]
    words = ["study", "approve", str(folder), "--by", "N", "--reason", "R"]
    shown = Folder(folder).terms()[1].digest.hex()
    at = folder / "study.toml"
    whole = at.read_text()
    at.write_text(whole.replace("max_rows = 100", "max_rows = 101"))
    for given, said in ((shown, "read `secure-afl study show` again"), (shown[:15], "first 16 digits")):
        done = CliRunner().invoke(app, [*words, "--study", given], env={"COLUMNS": "200"})
        assert done.exit_code == 1
        assert said in done.output
    assert CliRunner().invoke(app, words, input="n\n").exit_code == 1
    with pytest.raises(FileError, match="not what was shown"):
        Folder(folder).approve("N", "R", (bytes.fromhex(shown), ()))
    assert Folder(folder).approval() is None
    at.write_text(whole)
    assert CliRunner().invoke(app, [*words, "--study", shown[:16]]).exit_code == 0
    members = federation.parties.clients.members
    (folder / "roster.toml").write_text(roster.text(roster.Parties(Roster(members[:3]), None)))
    done = CliRunner().invoke(app, ["study", "show", str(folder)], env={"COLUMNS": "200"})
    assert "approved here with another roster" in done.output
    assert "approved here by" not in done.output


def test_all_that_a_study_says_is_shown(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    folder = federation.folders[0]
    (folder / "study.toml").write_text(
        """backend = "mask"
max_rows = 100
[codebook]
filter = "a >= 2"
products = [["a", "b"]]
[codebook.columns]
a = { kind = "number", range = [1, 9], unit = "mm", knots = [2, 3, 5] }
b = { kind = "category", levels = { low = ["l", "L"], high = ["h"] }, missing = ["NA"], when_missing = "leave out" }
[codebook.outcome]
kind = "number"
column = "c"
range = [0, 7]
[ridge]
ridge = 0.25
"""
    )
    shown = CliRunner().invoke(app, ["study", "show", str(folder)], env={"COLUMNS": "200"}).output
    for words in (
        "predicts the number 'c'",
        "Filter: 'a >= 2'",
        "Products: [['a', 'b']]",
        "range [1.0, 9.0], unit 'mm', knots [2.0, 3.0, 5.0]",
        "low = ['l', 'L']; high = ['h']",
        "when missing 'leave out'",
        "range [0.0, 7.0]",
        "ridge 0.25",
    ):
        assert words in shown, shown


def test_a_log_that_others_can_write_to_is_not_continued(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    (federation.folders[0] / AUDIT).chmod(0o666)
    with pytest.raises(AuditError, match="only its owner can write to"):
        asked(federation)


@pytest.mark.parametrize("name", ["", " ", "rows ", "ro\u200bws", "\uff52ows", "Rows"])
def test_a_data_set_has_one_name(tmp_path: Path, name: str) -> None:
    """In the weak design each of these names lets the same rows into another session."""
    federation = Federation(tmp_path)
    folder = federation.folders[0]
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    with closing(Store(folder / "state.db", identity)) as store:
        store.ledger.use("rows", b"s" * 32)
    (folder / "data.toml").write_text(f'table = "rows.csv"\nname = "{name}"\n')
    done = CliRunner().invoke(app, ["check", str(folder)], env={"COLUMNS": "300"})
    assert re.search(r"expected (a name of the data set|'rows', by which the ledger)", done.output), (
        done.output
    )
    post = Post(federation)
    with pytest.warns(DropoutWarning, match="without site-0"):
        learned(federation, post)
    assert "expected" in str(post.refusals[0])


def decisions(folder: Path) -> list[type]:
    entries = read((folder / AUDIT).read_bytes()).entries
    return [type(one.event) for one in entries if isinstance(one.event, Approved | Revoked)]


def test_a_revocation_holds_at_once_while_the_node_computes_a_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the weak design the revocation waits for the audit log, and the vector leaves meanwhile."""
    federation = Federation(tmp_path)
    folder, data = federation.folders[0], Folder.data
    revoked = []

    def slow(here: Folder, study: Study) -> object:
        if here.path == folder:
            revoked.append(here.revoke("Dr Noor", "withdrawn"))
        return data(here, study)

    monkeypatch.setattr(Folder, "data", slow)
    post = Post(federation)
    with pytest.warns(DropoutWarning, match="without site-0"):
        learned(federation, post)
    (study,) = {Folder(folder).terms()[1].digest}
    assert revoked == [((study,), False)]
    assert "is not approved at site-0" in str(post.refusals[0])
    entries = [one.event for one in read((folder / AUDIT).read_bytes()).entries]
    assert not [one for one in entries if isinstance(one, Sent) and one.frame.message == "upload"]
    assert decisions(folder) == [Approved, Revoked]
    assert not list(folder.glob("*.revoked.*"))
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    with closing(Store(folder / "state.db", identity)) as store:
        assert store.ledger.used("rows") is None


@pytest.mark.parametrize("text", ["max_rows = 7\n", "no study"])
def test_a_revocation_reaches_a_study_whose_file_has_changed(tmp_path: Path, text: str) -> None:
    """In the weak design restoring the old file restores the approval."""
    federation = Federation(tmp_path)
    at = federation.folders[0] / "study.toml"
    whole, digest = at.read_text(), Folder(federation.folders[0]).terms()[1].digest
    at.write_text(text + whole if "=" not in text else whole.replace("max_rows = 100\n", text))
    words = ["study", "revoke", str(at.parent), "--by", "N", "--reason", "R"]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert CliRunner().invoke(app, [*words, "--study", "00"]).exit_code == 1
    done = CliRunner().invoke(app, [*words, *(["--all"] if "=" in text else ["--study", digest.hex()[:9]])])
    assert done.output == f"revoked: study {grouped(digest)}\n", done.output
    at.write_text(whole)
    with pytest.raises(PolicyError, match="is not approved at site-0"):
        asked(federation)


def test_an_old_audit_log_does_not_bring_an_approval_back(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    folder = Folder(federation.folders[0])
    old = (folder.path / AUDIT).read_bytes()
    folder.revoke("Dr Noor", "withdrawn")
    (folder.path / AUDIT).write_bytes(old)
    for _ in range(2):
        with pytest.raises(StoreError, match="expected an audit log with the revocation of entry"):
            asked(federation)
    folder.approve("Dr Noor", "decided anew")
    assert is_heard(federation)


def test_a_revocation_that_no_log_has_yet_counts_and_is_before_the_next_approval(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    folder = Folder(federation.folders[0])
    with closing(folder.endpoint()) as node:
        with pytest.raises(SecureAflError):
            node.answer(Envelope(Channel.MASKED, SESSION, b"x"), 0)  # has the log open now
        folder.revoke("Dr Noor", "withdrawn")
        assert folder.approval() is None
    folder.approve("Dr Noor", "again")
    assert decisions(folder.path) == [Approved, Revoked, Approved]
    assert is_heard(federation)


def test_the_commands_say_what_they_do(tmp_path: Path) -> None:
    federation = unapproved(tmp_path)
    folder = str(federation.folders[0])

    def told(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["study", *arguments], env={"COLUMNS": "200"}, input="y\n")
        return f"{done.exit_code} {done.output}"

    shown = told("show", folder)
    for words in (
        "Purpose",
        "tells 'sick' apart: no, yes",
        "3 columns of the table: a, b, c",
        "bytes under masks",
        "4 clients: site-0, site-1, site-2, site-3",
        "fewer than 3 of them",
        "All parties that joined the session",
        "None. The sums are exact",
        "not approved here",
    ):
        assert words in shown
    assert told("revoke", folder, "--by", "N", "--reason", "R")[0] == "1"
    assert told("approve", folder, "--by", " ", "--reason", "R").startswith("1 ")
    assert told("approve", folder, "--by", "Dr Noor", "--reason", "vote 12").endswith("approved\n")
    assert "approved here by Dr Noor: vote 12" in told("show", folder)
    assert told("revoke", folder, "--by", "Dr Noor", "--reason", "R").startswith("0 revoked: study ")
    report = verify({"log": (federation.folders[0] / AUDIT).read_bytes()})
    assert not report.findings
    notes = " ".join(one.text for one in report.notes)
    assert "Dr Noor approved study" in notes
    assert "Dr Noor revoked study" in notes
    entries = read((federation.folders[0] / AUDIT).read_bytes()).entries
    assert [type(one.event) for one in entries if isinstance(one.event, Approved | Revoked)] == [
        Approved,
        Revoked,
    ]


def test_status_tells_what_was_decided_and_used_and_writes_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    folder = federation.folders[0]
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    with closing(Store(folder / "state.db", identity)) as store:
        store.ledger.use("rows", b"s" * 32)
    before = (folder / AUDIT).read_bytes()
    done = CliRunner().invoke(app, ["status", str(folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for words in (
        "site-0, fingerprint",
        "node: not running",
        "data set 'rows': used in",
        "an operator approved study",
    ):
        assert words in done.output
    assert (folder / AUDIT).read_bytes() == before
