"""`secure-afl check` is ready when a session would be, and else says what is wrong and what to do."""

import datetime
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="FLOWER IS NOT INSTALLED: nodes are not tested here")

from typer.testing import CliRunner
from worlds.folders import Federation
from worlds.superlinks import superlink

from secure_afl.crypto.identity import Identity
from secure_afl.node import preflight
from secure_afl.node.preflight import Finding, looked_at
from secure_afl.node.site import AUDIT, Folder
from secure_afl.node.status import sections
from secure_afl.protocol.durable.store import Store, StoreError, snapshot
from secure_afl.protocol.files import keys, policy, roster
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.simulations.cli.main import app
from secure_afl.simulations.network import certificates


def faults(folder: Path) -> dict[str, str]:
    return {one.what: one.said for one in looked_at(folder) if one.fault}


def spend(folder: Path) -> None:
    _, identity = keys.read_key(folder / "identity.key", keys.service_passphrase)
    with closing(Store(folder / "state.db", identity)) as store:
        store.ledger.use("rows", b"s" * 32)


def forbid(folder: Path) -> None:
    (folder / "policy.toml").write_text(policy.text(Policy(backends=frozenset({"bfv"}))))


def ask_for_more(folder: Path) -> None:
    (folder / "policy.toml").write_text(policy.text(Policy(minimum_honest=9)))


def mistype(folder: Path) -> None:
    text = (folder / "roster.toml").read_text()
    at = text.index('verify_key = "') + len('verify_key = "')
    (folder / "roster.toml").write_text(text[:at] + text[at + 1 :])


def leave_out(folder: Path) -> None:
    here = roster.read(folder / "roster.toml")
    (folder / "roster.toml").write_text(roster.text(roster.Parties(Roster(here.clients.members[1:]), None)))


def break_table(folder: Path) -> None:
    table = folder / "rows.csv"
    table.write_text(table.read_text() + "13,987654.3217,0,0,no\n")


@pytest.mark.parametrize(
    ("harm", "what", "words"),
    [
        (spend, "ledger", "'rows' was used in session"),
        (forbid, "plan", "does not allow|not allowed"),
        (ask_for_more, "plan", "at least"),
        (mistype, "roster, policy and study", "verify_key|key"),
        (leave_out, "roster", "expected site-0 with its present key in the roster"),
        (break_table, "data", "within its column's bound"),
        (lambda folder: (folder / AUDIT).unlink(), "approval", "is not approved here"),
        (lambda folder: (folder / "identity.key").chmod(0o644), "identity", "mode 0600"),
        (
            lambda folder: (folder / "study.toml").write_text("backend = 1"),
            "roster, policy and study",
            "study",
        ),
        (lambda folder: (folder / "data.toml").unlink(), "data", "data.toml"),
    ],
)
def test_each_fault_has_its_reason(
    tmp_path: Path, harm: Callable[[Path], object], what: str, words: str
) -> None:
    folder = Federation(tmp_path).folders[0]
    assert set(faults(folder)) == {"server"}  # no node.toml
    harm(folder)
    found = faults(folder)
    assert what in found
    assert re.search(words, found[what])


def test_nothing_is_written(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    for folder in (*federation.folders, federation.server):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        list(looked_at(folder))
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_party_is_ready_when_its_server_answers(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "parties")
    folder = federation.folders[0]
    (tmp_path / "node").mkdir()
    made = certificates.make(tmp_path / "node", 1)
    with superlink(tmp_path) as here:
        (folder / "node.toml").write_text(
            f'superlink = "{here.public}"\nauthority = "{tmp_path / "authority.crt"}"\nkey = "{made.nodes[0]}"\n'
        )
        assert faults(folder) == {}
        done = CliRunner().invoke(app, ["check", str(folder)], env={"COLUMNS": "200"})
        assert done.exit_code == 0
        assert done.output.endswith("ready\n")
        assert "certificate until" in done.output
        (folder / "node.toml").write_text(
            f'superlink = "{here.public}"\nauthority = "{made.authority}"\nkey = "{made.nodes[0]}"\n'
        )
        assert "does not vouch for" in faults(folder)["server"]
    assert "nobody answers at" in faults(folder)["server"]
    done = CliRunner().invoke(app, ["check", str(folder)], env={"COLUMNS": "200"})
    assert done.exit_code == 1
    assert done.output.endswith("not ready: 1 to put right\n")


def test_a_clock_that_is_off_and_a_certificate_that_ends_are_told() -> None:
    now = datetime.datetime.now(datetime.UTC)
    head = "HTTP/1.1 404 Not Found\r\nDate: {:%a, %d %b %Y %H:%M:%S} GMT\r\n"
    assert "differ by" in preflight._clock(head.format(now))
    with pytest.raises(Exception, match="ahead of the server's"):
        preflight._clock(head.format(now - datetime.timedelta(days=1)))
    assert "have it renewed" in preflight._late(now + datetime.timedelta(days=3))
    assert preflight._late(now + datetime.timedelta(days=90)) == ""


def test_the_server_needs_an_address_a_certificate_and_every_partys_node(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "parties")
    (tmp_path / "tls").mkdir()
    made = certificates.make(tmp_path / "tls", 4)
    server = federation.server
    keys.write_key(server, "server", server=True)
    (server / "server.key").rename(server / "identity.key")
    assert "server.toml" in faults(server)["SuperLink"]
    (server / "server.toml").write_text(f'certificate = "{made.server}"\nkey = "{made.server_key}"\n')
    assert "expected the public node keys of 4 parties, got 0" in faults(server)["SuperLink"]
    (server / "nodes").mkdir()
    for node in made.nodes:
        (server / "nodes" / f"{node.name}.pub").write_bytes(node.with_suffix(".pub").read_bytes())
    assert faults(server) == {}
    assert [type(one) for one in looked_at(server)] == [Finding] * 5


def test_looking_changes_nothing_also_where_the_file_is_of_an_earlier_version(tmp_path: Path) -> None:
    """Opening a store upgrades its file, so `check` and `status` once changed the file that they reported as old."""
    federation = Federation(tmp_path)
    folder = federation.folders[0]
    spend(folder)
    with sqlite3.connect(folder / "state.db") as database:
        database.executescript(
            "DROP TABLE spent; ALTER TABLE used DROP COLUMN uploaded; PRAGMA journal_mode = DELETE"
        )
    database.close()
    before = {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()}
    assert "was used in session" in faults(folder)["ledger"]
    assert any("used in session" in line for one in sections(folder) for line in one.lines)
    assert len(Folder(folder).spent()[1]) == 1
    assert {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()} == before


def test_a_node_at_work_is_not_disturbed_and_its_last_step_is_seen(tmp_path: Path) -> None:
    _, identity = keys.read_key(Federation(tmp_path).folders[0] / "identity.key", keys.service_passphrase)
    with closing(Store(tmp_path / "state.db", identity)) as store:
        store.ledger.use("rows", b"s" * 32)
        with store.transaction(), snapshot(tmp_path / "state.db", identity) as seen:
            assert seen.ledger.data_sets() == ["rows"]
            other = snapshot(tmp_path / "state.db", Identity.generate())
            with pytest.raises(StoreError, match=f"expected {tmp_path / 'state.db'} to be of"), other:
                pass
