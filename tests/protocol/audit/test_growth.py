"""Audit logs that grow: what refused messages cost, lines that are checked once, and logs in several files."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from worlds.patience import HANG

from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit import log as log_module
from secure_afl.protocol.audit.chain import Chain, read
from secure_afl.protocol.audit.check import verify
from secure_afl.protocol.audit.events import (
    Approved,
    Closed,
    Ended,
    Forgotten,
    MoreRefused,
    Refused,
    Revoked,
    Role,
)
from secure_afl.protocol.audit.log import SINGLY, AuditLog, Known, Memory
from secure_afl.protocol.session.errors import AuditError


def clock() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def refusals(log: AuditLog, number: int) -> None:
    for one in range(number):
        log.refuse(Refused(bytes(32), one.to_bytes(32), 10, "PolicyError"))


def test_refused_messages_do_not_fill_the_disk(tmp_path: Path) -> None:
    """In the weak design each refusal adds a line for ever, and each opening of the log adds two."""
    identity, path, known = Identity.generate(), tmp_path / "log", Known()
    for _ in range(50):  # a node opens its log when a message comes, and closes it soon
        log = AuditLog(path, identity, "site", Role.CLIENT, clock, known=known)
        refusals(log, 200)
        log.close()
    chain = read(path.read_bytes())
    assert not chain.faults
    assert len(chain.entries) < 100
    counted = [one.event.count for one in chain.entries if isinstance(one.event, MoreRefused)]
    assert counted == [2**k for k in range(len(counted))]
    assert 2 * counted[-1] > 50 * 200 - SINGLY
    again = AuditLog(path, identity, "site", Role.CLIENT, clock)  # another process knows it from the file
    refusals(again, counted[-1] - 1)
    assert path.read_bytes().count(b"more refused") == len(counted)
    again.append(Ended(bytes(32), 0))  # anything else: refusals have their own lines again
    refusals(again, 3)
    again.close()
    events = [one.event for one in read(path.read_bytes()).entries]
    assert [type(one) for one in events[-4:]] == [Refused, Refused, Refused, Closed]


def test_many_refusals_do_not_hide_one_of_another_kind(tmp_path: Path) -> None:
    """In the weak design forty wrong messages hide whatever comes after them."""
    identity, path, known = Identity.generate(), tmp_path / "log", Known()
    log = AuditLog(path, identity, "site", Role.CLIENT, clock, known=known)
    refusals(log, 40)
    for number in range(5):
        log.refuse(Refused(bytes(32), number.to_bytes(32), 10, "PolicyError", "a sum of one client"))
    for number in range(500):
        log.refuse(Refused(bytes(32), number.to_bytes(32), 10, "PolicyError", f"reason {number}"))
    log.close()
    reasons = [one.event.reason for one in read(path.read_bytes()).entries if isinstance(one.event, Refused)]
    assert reasons.count("a sum of one client") == 1
    assert len(reasons) < SINGLY + 100


def test_checked_lines_are_not_checked_again_but_changed_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verifying a day's log at each opening cost seconds per message."""
    identity, path, known = Identity.generate(), tmp_path / "log", Known()
    read_ = []

    def noted(data: bytes) -> Chain:
        read_.append(len(data))
        return read(data)

    monkeypatch.setattr(log_module, "read", noted)
    for number in range(3):
        log = AuditLog(path, identity, "site", Role.CLIENT, clock, known=known)
        log.append(Ended(bytes(32), number))
        log.close()
    assert read_ == []
    other = AuditLog(path, identity, "site", Role.CLIENT, clock)  # an operator's command
    other.append(Approved(bytes(32), (), "who", "why"))
    other.close()
    AuditLog(path, identity, "site", Role.CLIENT, clock, known=known).close()
    assert len(read_) == 2
    assert known.approved
    path.write_bytes(path.read_bytes().replace(b'"size":1', b'"size":7'))
    with pytest.raises(AuditError, match="line 5: the signature does not fit"):
        AuditLog(path, identity, "site", Role.CLIENT, clock, known=known)


def test_a_log_goes_on_in_another_file(tmp_path: Path) -> None:
    """The weak design begins a log without a link to the previous file, so nobody misses what was cut off."""
    identity, path = Identity.generate(), tmp_path / "audit.jsonl"
    log = AuditLog(path, identity, "site", Role.CLIENT, clock)
    log.append(Approved(bytes(32), (bytes(32),), "who", "why"))
    log.append(Approved(b"2" * 32, (), "who", "why"))
    log.append(Revoked(b"2" * 32, "who", "why"))
    parts = [log.rotate(), log.rotate()]
    log.append(Ended(bytes(32), 0))
    log.close()
    assert [one.name for one in parts] == ["audit.part-001.jsonl", "audit.part-002.jsonl"]
    again = AuditLog(path, identity, "site", Role.CLIENT, clock)
    assert again.approved(bytes(32)) is not None
    assert again.approved(b"2" * 32) is None
    assert again.revoked == 4
    again.close()
    files = {one.name: one.read_bytes() for one in (path, *parts)}
    report = verify(files)
    assert not report.findings
    (one,) = report.logs
    assert one.file == "audit.part-001.jsonl + audit.part-002.jsonl + audit.jsonl"
    assert [entry.number for entry in one.chain.entries] == list(range(1, len(one.chain.entries) + 1))
    for missing, said in {
        "audit.part-001.jsonl": "expected part 1 of this log",
        "audit.part-002.jsonl": "expected part 2 of this log",
        "audit.jsonl": "goes on in another file, which was not given",
    }.items():
        found = verify({name: data for name, data in files.items() if name != missing}).findings
        assert any(said in one.text and one.line >= 1 for one in found), missing
    # A part that its owner writes anew is another one.
    shorter = tmp_path / "shorter.jsonl"
    forged = AuditLog(shorter, identity, "site", Role.CLIENT, clock)
    forged.rotate()
    forged.close()
    files["audit.part-001.jsonl"] = (tmp_path / "shorter.part-001.jsonl").read_bytes()
    assert any("expected part 1" in one.text for one in verify(files).findings)


def test_nobody_writes_into_a_file_that_another_process_has_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, path = Identity.generate(), tmp_path / "audit.jsonl"
    log = AuditLog(path, identity, "site", Role.CLIENT, clock)
    opened, waits = list[AuditLog](), threading.Event()
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.set())  # it found the file locked
    waiting = threading.Thread(
        target=lambda: opened.append(AuditLog(path, identity, "site", Role.CLIENT, clock, wait=HANG))
    )
    waiting.start()
    assert waits.wait(HANG)
    old = log.rotate()
    data = old.read_bytes()
    log.close()
    waiting.join(HANG)
    opened[0].append(Ended(bytes(32), 1))
    opened[0].close()
    assert old.read_bytes() == data
    assert b'"size":1' in path.read_bytes()


def test_a_ledger_begun_anew_forgets_what_was_sent_and_joined_sessions_stay_known() -> None:
    """Else a fresh `state.db` would be taken for one that was put back."""
    memory = Memory({b"a", b"b"}, {b"a"}, {(False, b"a"): [b"digest"]})
    memory.take(Forgotten("who", "why"))
    assert (memory.joined, memory.uploaded, memory.said) == ({b"a", b"b"}, set(), {})
