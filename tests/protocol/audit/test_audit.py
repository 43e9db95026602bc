"""Audit logs: any change of any line is found and named; parties that tell other stories are; no secret is in them."""

import base64
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from reference import kdf
from worlds.audits import CLIENTS, PLAN, Audited, audited, written
from worlds.cohorts import Tap

from secure_afl.crypto.errors import CryptoError, SecureAflError
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import Report, verify
from secure_afl.protocol.audit.events import (
    Aborted,
    Agreed,
    AnyEvent,
    Begun,
    Closed,
    Frame,
    Received,
    Refused,
    Released,
    Resumed,
    Role,
    Sent,
    Withheld,
    line_digest,
    message_digest,
    parse,
    signed,
)
from secure_afl.protocol.audit.log import AuditLog, Logs
from secure_afl.protocol.audit.record import RecordedParty
from secure_afl.protocol.audit.story import stories
from secure_afl.protocol.masking.messages import Survivors
from secure_afl.protocol.session.errors import AuditError, PolicyError, RemoteProtocolError
from secure_afl.protocol.session.parameters import Parameters, Profile, SumPlan, SumWanted
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import VERSION
from secure_afl.sums.aggregation import MaskedAggregator
from secure_afl.testing.faults import Fault

BACKENDS = ("mask", "bfv", "bfv+mask")


class Sessions(dict[str, Audited]):
    """One of each backend, run when it is first asked for; in each, what one client uploads is lost."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory

    def __missing__(self, backend: str) -> Audited:
        self[backend] = audited(self._factory.mktemp("logs"), backend, silent=[1])
        return self[backend]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return Sessions(tmp_path_factory)


@pytest.fixture(scope="module")
def masked(sessions: Sessions) -> Audited:
    return sessions["mask"]


def found(report: Report) -> set[tuple[str, int]]:
    return {(one.file, one.line) for one in report.findings}


# ---- tampering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_honest_session_holds(sessions: Sessions, backend: str) -> None:
    report = sessions[backend].verify()
    assert not report.findings
    lost = [one for one in report.notes if "did not reach the server" in one.text]
    assert [one.file for one in lost] == ["hospital-1"] * 2  # what was lost is no tampering, and is said
    assert report.notes == tuple(lost)


@pytest.mark.slow
@settings(max_examples=12)
@given(st.data())
def test_no_network_that_loses_delays_or_repeats_makes_honest_parties_look_like_liars(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    backend = data.draw(st.sampled_from(BACKENDS))
    masks = ["advertising", "sharing", "confirming", "collecting", "consenting", "unmasking"]
    encrypted = ["inviting", "encrypting", "checking"]
    phases = (masks if "mask" in backend else []) + (encrypted if "bfv" in backend else [])
    faults = st.builds(
        Fault,
        st.sampled_from(("drop", "late", "shuffle", "repeat")),
        st.sampled_from(phases),
        st.frozensets(st.integers(0, 3), min_size=1, max_size=2),
        st.sampled_from((True, False, None)),
    )
    session = audited(
        tmp_path_factory.mktemp("faulty"), backend, faults=data.draw(st.lists(faults, max_size=2)), seed=1
    )
    report = session.verify()
    assert not report.findings
    stories(report)


def test_a_round_that_was_begun_anew(tmp_path: Path) -> None:
    """A client uploads but sends no tags for its upload, so the others encrypt again; the log shows the first attempt as
    one.
    """
    session = audited(tmp_path, "bfv", faults=[Fault("drop", "checking", frozenset({3}))])
    report = session.verify()
    assert not report.findings
    [story] = stories(report)
    assert [one.over for one in story.accounts[0].uploads] == ["repeated", "3 clients"] * 2
    assert [one.over for one in story.accounts[3].uploads] == ["not in the sum"] * 2


def test_a_message_that_was_altered_on_its_way_is_found(tmp_path: Path) -> None:
    """The client answers an altered question; the logs of both ends show what each saw."""

    def other(message: bytes) -> bytes:
        return msgspec.msgpack.encode([*msgspec.msgpack.decode(message)[:-1], [0, 1, 2]])

    fault = Fault(other, "collecting", frozenset({0}), upward=False)
    report = audited(tmp_path, faults=[fault]).verify()
    assert {one.file for one in report.findings} == {"hospital-0"}
    assert "“sum request” of round 0" in report.findings[0].text
    assert "whose log server does not record sending it" in report.findings[0].text


def test_what_a_server_refuses_is_in_its_log(tmp_path: Path) -> None:
    fault = Fault("lengthen", "collecting", frozenset({2}))
    session = audited(tmp_path, faults=[fault])
    report = session.verify()
    assert not report.findings
    events = [one.event for one in read(session.logs["server"]).entries]
    assert [(one.sender, one.kind) for one in events if isinstance(one, Refused)] == [
        (2, "RemoteProtocolError")
    ] * len(PLAN)


def tampered(lines: list[bytes], at: int, how: str, data: st.DataObject) -> tuple[list[bytes], set[int]]:
    """Changed lines, and the numbers, from 1, by which the change may be named."""
    line, number = lines[at], at + 1
    if how == "delete":
        return lines[:at] + lines[at + 1 :], {number}
    if how == "duplicate":
        return lines[: at + 1] + lines[at:], {number + 1}
    if how == "insert":
        return [*lines[:at], data.draw(st.sampled_from(lines)), *lines[at:]], {number, number + 1}
    if how == "swap":
        other = (at + 1) % len(lines)
        changed = list(lines)
        changed[at], changed[other] = changed[other], changed[at]
        return changed, {number, other + 1}
    index = data.draw(st.integers(0, len(line) - 1))
    if how == "flip":
        flipped = line[index] ^ data.draw(st.integers(1, 255))
        return [*lines[:at], line[:index] + bytes([flipped]) + line[index + 1 :], *lines[at + 1 :]], {number}
    if how == "cut a byte":
        return [*lines[:at], line[:index] + line[index + 1 :], *lines[at + 1 :]], {number}
    added = bytes([data.draw(st.integers(0, 255))])
    return [*lines[:at], line[:index] + added + line[index:], *lines[at + 1 :]], {number}


@pytest.mark.slow
@settings(max_examples=50)
@given(st.data())
def test_any_change_of_any_one_line_of_any_log_is_found_and_named(
    sessions: Sessions, data: st.DataObject
) -> None:
    session = sessions[data.draw(st.sampled_from(BACKENDS))]
    party = data.draw(st.sampled_from(sorted(session.logs)))
    lines = session.logs[party].splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    how = data.draw(
        st.sampled_from(("delete", "duplicate", "insert", "swap", "flip", "cut a byte", "add a byte"))
    )
    changed, named = tampered(lines, at, how, data)
    if changed == lines:  # a byte added beside its like
        return
    report = verify(session.logs | {party: b"".join(changed)})
    # What removes the end names the line that is the last one now.
    named |= {len(changed)} if how in ("delete", "cut a byte") and at == len(lines) - 1 else set()
    assert {(party, line) for line in named} & found(report), (how, at, found(report))


def test_an_altered_line_does_not_take_others_with_it(masked: Audited) -> None:
    lines = masked.logs["server"].splitlines(keepends=True)
    for at in range(1, len(lines)):
        line = lines[at].replace(b'"number":', b'"numbeR":')
        assert [number for number, _ in read(b"".join([*lines[:at], line, *lines[at + 1 :]])).faults] == [
            at + 1
        ]


def test_an_entry_has_one_form(masked: Audited) -> None:
    """The same entry in another spelling, which a reader would accept, is not a valid line."""
    lines = masked.logs["hospital-0"].splitlines(keepends=True)
    assert b'"event":{"what":"received",' in lines[2]
    for written_so, otherwise in (
        (b"{", b"{ "),
        (b"\n", b" \n"),
        (b'"frame":{"message":', b'"sender":null,"frame":{"message":'),
        (b"parameters", b"\\u0070arameters"),
    ):
        changed = lines[2].replace(written_so, otherwise, 1)
        chain = read(b"".join([*lines[:2], changed, *lines[3:]]))
        assert chain.faults == ((3, "the entry is not in canonical form"),)


def test_digests_and_signatures_are_those_of_the_documents(masked: Audited) -> None:
    """Compared with the reference implementation, which is written from docs/audit.md."""
    key = Ed25519PublicKey.from_public_bytes(masked.identities["hospital-0"].verify_key)
    before = b""
    for line in masked.logs["hospital-0"].splitlines():
        entry = json.loads(line)
        assert base64.b64decode(entry["previous"]) == before
        before = kdf.digest("AUDIT_LINE", line)
        unsigned = line.replace(entry["signature"].encode(), b"")
        key.verify(base64.b64decode(entry["signature"]), kdf.bind("AUDIT_SIGNATURE", unsigned))
    assert line_digest(b"a line") == kdf.digest("AUDIT_LINE", b"a line")
    assert message_digest(b"a message") == kdf.digest("AUDIT_MESSAGE", b"a message")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_lines_missing_at_the_end_are_found(sessions: Sessions, backend: str) -> None:
    session = sessions[backend]
    for party, log in session.logs.items():
        lines = log.splitlines(keepends=True)
        for left in {1, 2, len(lines) // 2, len(lines) - 2, len(lines) - 1}:
            files = session.logs | {party: b"".join(lines[:left])}
            assert (party, left) in found(verify(files))


def test_lines_missing_at_the_end_and_closed_again_are_found_by_what_others_say(masked: Audited) -> None:
    """Whoever has the party's key cuts off the end of its log and closes the log again."""
    for party in ("hospital-0", "server"):
        events = [entry.event for entry in read(masked.logs[party]).entries]
        for left in range(1, len(events) - 1, 2):
            cut = masked.resigned(party, lambda events, left=left: [*events[:left], Closed()])  # type: ignore[misc]
            report = verify(masked.logs | {party: cut})
            told = events[left:-1]
            # Only what nobody else saw can be left out: that a client was given the last messages of the server.
            if any(isinstance(one, Sent) for one in told):
                assert report.findings if party != "server" else report.findings or report.notes, left


def test_a_torn_last_line_is_told_apart_from_tampering(masked: Audited) -> None:
    log = masked.logs["hospital-0"]
    report = masked.verify(hospital_0=log + log.splitlines()[-1][:40])
    assert [(one.file, one.line) for one in report.findings] == [("hospital-0", len(log.splitlines()) + 1)]
    assert "unfinished line of 40 bytes" in report.findings[0].text


def test_contents_that_are_no_log(masked: Audited) -> None:
    for data in (b"", b"\n", b"{}\n", b"\xff\xfe\n", b"[1]\n" * 3, b"[" * 100_000 + b"\n"):
        report = verify({"log": data})
        assert found(report) == {("log", 1)}
        assert stories(report) == ()


def test_a_line_that_its_own_party_replaced() -> None:
    """The new line is valid by itself, but the next line follows the old one."""
    identity = Identity.generate()
    begun = Begun(VERSION, "site", Role.CLIENT, identity.verify_key)
    refused = [Refused(bytes(32), bytes(32), size, "PolicyError") for size in (1, 2)]
    log, other = (
        written(identity, [begun, one, one, Closed()], clock()).splitlines(keepends=True) for one in refused
    )
    changed = read(b"".join([*log[:1], other[1], *log[2:]]))
    assert changed.faults == ((3, "it does not continue the line above: that line was replaced"),)
    assert [one.number for one in changed.entries] == [1, 2, 3, 4]


def test_a_line_missing_below_an_altered_one(masked: Audited) -> None:
    lines = masked.logs["hospital-0"].splitlines(keepends=True)
    chain = read(b"".join([lines[0], lines[1].replace(b'"number":2', b'"number":9'), *lines[3:]]))
    assert chain.faults == (
        (2, "the signature does not fit the entry"),
        (3, "expected entry 3, got entry 4: lines were removed, moved or added"),
    )


def test_a_log_begins_once_and_with_a_sound_line() -> None:
    """If the first line is damaged, its party and key are not trusted."""
    identity = Identity.generate()
    begun = Begun(VERSION, "site", Role.CLIENT, identity.verify_key)
    again = read(written(identity, [begun, begun, Closed()], clock()))
    assert again.faults == ((2, "expected the log to begin once, on line 1"),)
    first = written(identity, [begun, Closed()], clock())
    for damaged in (first.replace(b"site", b"sita"), first[first.index(b"\n") + 1 :]):
        chain = read(damaged)
        assert chain.begun is None
        assert [line for line, _ in chain.faults] == [1]
        assert verify({"log": damaged}).logs == ()


def test_a_log_of_another_version(masked: Audited) -> None:
    first, *_ = read(masked.logs["server"].replace(b"secure-afl/2", b"secure-afl/3", 1)).faults
    assert first[0] == 1
    assert "expected version 'secure-afl/2', got 'secure-afl/3'" in first[1]


@settings(max_examples=30)
@given(st.data())
def test_no_contents_make_the_checker_fall_over(masked: Audited, data: st.DataObject) -> None:
    """Entries that their party signed, in any order and of any shape that a reader accepts."""
    party = data.draw(st.sampled_from(sorted(masked.logs)))

    def change(events: list[AnyEvent]) -> list[AnyEvent]:
        kept = data.draw(st.lists(st.sampled_from(events[1:]), max_size=12))
        odd = [structs.replace(one, round=9, survivors=(99,)) for one in kept if isinstance(one, Released)]
        far = [
            structs.replace(one, frame=structs.replace(one.frame, members=(77, 5), round=10**6))
            for one in kept
            if isinstance(one, Received | Sent)
        ]
        return [events[0], *events[1:2], *kept, *odd, *far]

    stories(verify(masked.logs | {party: masked.resigned(party, change)}))


# ---- parties that tell another story -------------------------------------------------------------


def swap(kind: type[Any], change: Any) -> Any:
    """The same log with every event of a kind changed, or left out where `change` gives None."""

    def changed(events: list[AnyEvent]) -> list[AnyEvent]:
        out = [change(one) if isinstance(one, kind) else one for one in events]
        return [one for one in out if one is not None]

    return changed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("claimed", [(0, 2), (0, 1, 2, 3), (0, 1, 2)])
def test_a_server_that_claims_other_survivors(
    sessions: Sessions, backend: str, claimed: tuple[int, ...]
) -> None:
    session = sessions[backend]
    lie = session.resigned("server", swap(Released, lambda one: structs.replace(one, survivors=claimed)))
    report = session.verify(server=lie)
    lines = {line for line, entry in enumerate(read(lie).entries, 1) if isinstance(entry.event, Released)}
    assert {("server", line) for line in lines} <= found(report)
    assert any(
        "hospital-0 was shown hospital-0, hospital-2, hospital-3" in one.text for one in report.findings
    )


def test_a_server_that_made_an_upload_disappear(masked: Audited) -> None:
    """Its log omits an upload and everything that followed from it; the other logs contradict it."""

    def change(events: list[AnyEvent]) -> list[AnyEvent]:
        upload = [one for one in events if isinstance(one, Received) and one.frame.message == "upload"]
        gone = next(one for one in upload if one.sender == 3)
        kept = [one for one in events if one is not gone]
        return swap(Released, lambda one: structs.replace(one, survivors=(0, 2)))(kept)  # type: ignore[no-any-return]

    texts = [one.text for one in masked.verify(server=masked.resigned("server", change)).findings]
    assert any("hospital-2 was shown hospital-0, hospital-2, hospital-3" in text for text in texts)


def test_a_server_that_hides_what_it_opened(masked: Audited) -> None:
    report = masked.verify(server=masked.resigned("server", swap(Released, lambda one: None)))
    assert sum("no line records its outcome" in one.text for one in report.findings) == 2


def test_a_server_that_opened_a_sum_twice_or_of_another_length(masked: Audited) -> None:
    twice = masked.resigned(
        "server", lambda events: [*events[:-1], *(e for e in events if isinstance(e, Released)), events[-1]]
    )
    assert any("it was opened 2 times" in one.text for one in masked.verify(server=twice).findings)
    longer = masked.resigned("server", swap(Released, lambda one: structs.replace(one, values=8)))
    assert any(
        "expected a sum of 7 values, got 8" in one.text for one in masked.verify(server=longer).findings
    )


def test_a_server_that_received_what_was_never_sent(masked: Audited) -> None:
    def more(one: Received) -> Received:
        if one.sender == 2 and one.frame.message == "reveal":
            return structs.replace(one, frame=structs.replace(one.frame, digest=bytes(32)))
        return one

    report = masked.verify(server=masked.resigned("server", swap(Received, more)))
    assert any(
        "arrived from hospital-2" in one.text and "does not record" in one.text for one in report.findings
    )


def test_a_server_that_told_clients_different_stories(masked: Audited) -> None:
    """A client's log has a message that the server's log does not record sending."""

    def other(one: Received) -> Received:
        if one.frame.message == "survivors" and one.frame.round == 0:
            frame = structs.replace(one.frame, digest=bytes(32), members=(0, 2))
            return structs.replace(one, frame=frame)
        return one

    report = masked.verify(hospital_2=masked.resigned("hospital-2", swap(Received, other)))
    texts = [str(one) for one in report.findings]
    assert any(text.startswith("hospital-2, line") and "arrived from the server" in text for text in texts)
    assert any("hospital-2 was shown hospital-0, hospital-2" in text for text in texts)
    assert any("against the party's own policy" in text for text in texts)  # two clients are too few


def test_a_client_that_leaves_out_an_upload(masked: Audited) -> None:
    def none(one: Sent) -> Sent | None:
        return None if one.frame.message == "upload" else one

    report = masked.verify(hospital_3=masked.resigned("hospital-3", swap(Sent, none)))
    assert sum("“upload”" in one.text and one.file == "server" for one in report.findings) == 2


def test_a_client_whose_policy_was_not_met(masked: Audited) -> None:
    strict = swap(Agreed, lambda one: structs.replace(one, policy=Policy(minimum_honest=3, corrupted=0.3)))
    report = masked.verify(hospital_0=masked.resigned("hospital-0", strict))
    assert any(
        "against the party's own policy" in one.text and one.file == "hospital-0" for one in report.findings
    )


def test_a_client_that_planned_something_else(masked: Audited) -> None:
    other = swap(
        Agreed, lambda one: structs.replace(one, plan=(structs.replace(one.plan[0], length=9), one.plan[1]))
    )
    report = masked.verify(hospital_0=masked.resigned("hospital-0", other))
    assert any("differ from this party's plan" in one.text for one in report.findings)


def test_a_log_under_another_key(masked: Audited) -> None:
    """Without a key of the roster anybody can write a valid chain, but it does not pass for the party's."""
    entries = read(masked.logs["hospital-0"]).entries
    stranger = Identity.generate()
    begun = Begun(VERSION, "hospital-0", Role.CLIENT, stranger.verify_key)
    forged = written(stranger, [begun, *(one.event for one in entries[1:])], entries[0].time)
    report = masked.verify(hospital_0=forged)
    assert any("key in the session's roster" in one.text for one in report.findings)


def test_the_same_log_twice(masked: Audited) -> None:
    report = verify(masked.logs | {"copy": masked.logs["hospital-0"]})
    assert found(report) == {("copy", 1)}


def test_rosters_that_are_not_those_of_the_terms(masked: Audited) -> None:
    def smaller(one: Agreed) -> Agreed:
        return structs.replace(one, roster=Roster(one.roster.members[:3]))

    report = masked.verify(hospital_0=masked.resigned("hospital-0", swap(Agreed, smaller)))
    assert any(
        "the rosters in this log differ from those in the terms" in one.text for one in report.findings
    )


def test_logs_of_some_parties_are_enough_for_their_side(masked: Audited) -> None:
    report = verify({"mine": masked.logs["hospital-0"]})
    assert not report.findings
    assert "no valid log of the server, hospital-1, hospital-2, hospital-3" in report.notes[0].text
    [story] = stories(report)
    assert "by its own log it helped to open a sum over 3 clients" in story.accounts[0].uploads[0].sentence


# ---- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "form", "fate"),
    [
        ("mask", "hidden by secret masks", "the server learned only the sum over 3 clients"),
        ("bfv", "encrypted", "key holder 1 opened only the sum over 3 clients"),
        (
            "bfv+mask",
            "hidden by secret masks and encrypted",
            "the server learned only the sum over 3 clients",
        ),
    ],
)
def test_the_story(sessions: Sessions, backend: str, form: str, fate: str) -> None:
    [story] = stories(sessions[backend].verify())
    assert [one.client for one in story.accounts] == list(CLIENTS)
    first, lost, *_ = story.accounts
    assert [(one.statistic, one.values, one.over) for one in first.uploads] == [
        ("gram", 7, "3 clients"),
        ("counts", 3, "3 clients"),
    ]
    assert first.uploads[0].sentence.startswith(
        f"hospital-0 sent one vector of 7 numbers (“gram”), {form}; {fate} (hospital-0, hospital-2, hospital-3)"
    )
    assert all("is in no sum" in one.sentence for one in lost.uploads)
    assert len(lost.uploads) == (0 if backend == "bfv+mask" else 2)
    given = any("one of hospital-1, not in it" in text for text in first.besides)
    assert given is ("mask" in backend)


def test_a_round_that_was_given_up(tmp_path: Path) -> None:
    session = audited(tmp_path, silent=[1, 2])
    report = session.verify()
    assert not report.findings
    [story] = stories(report)
    assert story.accounts[0].uploads[0].over == "nothing was opened"
    aborted = [one.event for one in read(session.logs["server"]).entries if isinstance(one.event, Aborted)]
    assert [one.round for one in aborted] == [0, 1]
    assert all(one.reason.startswith("nothing was released: ") for one in aborted)


# ---- what is not in a log ------------------------------------------------------------------------


def secrets_of(aggregator: MaskedAggregator) -> Iterator[bytes]:
    for client in aggregator.cohort.clients.values():
        yield client._identity._key.private_bytes_raw()
        for keys in client._memory.rounds.values():
            yield from (keys.mask_seed, keys.self_seed, keys.own_share, *keys.pair_secrets.values())
            yield from (share for pair in keys.shares.values() for share in pair)


def shown(secret: bytes, text: str) -> bool:
    forms = (secret.hex(), base64.b64encode(secret).decode(), str(int.from_bytes(secret, "big")))
    return any(form in text for form in forms)


def test_no_secret_and_no_statistic_is_in_any_log(tmp_path: Path) -> None:
    tap = Tap()
    aggregator = MaskedAggregator(network=tap, audit=tmp_path)
    aggregator.open(CLIENTS, PLAN)
    secrets = {one for one in secrets_of(aggregator) if one}
    assert len(secrets) > 30
    draws = np.random.default_rng(5)
    vectors = {name: draws.uniform(-9, 9, PLAN[0].length) for name in CLIENTS}
    total = aggregator.sum(
        0, {name: (vector, "a name that only its owner knows") for name, vector in vectors.items()}
    )
    aggregator.close()
    text = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert not [one for one in secrets if shown(one, text)]
    assert "a name that only its owner knows" not in text
    assert total.units is not None
    numbers = [*total.total, *(value for name in CLIENTS for value in vectors[name])]
    assert not [value for value in numbers if repr(float(value)) in text]
    assert not [unit for unit in total.units if str(int(unit)) in text]
    # Of messages, their digests and sizes and whom they name: nothing that was sealed, masked or signed.
    for envelope in tap.seen:
        assert not shown(envelope.data[-64:], text)
        assert not shown(envelope.data[8:40], text)


def test_a_client_that_refuses_its_values_tells_nothing_of_them(tmp_path: Path) -> None:
    aggregator = MaskedAggregator(audit=tmp_path)
    aggregator.open(CLIENTS, [SumPlan("gram", 5, 1.0, 20)])
    good = np.zeros(5)
    vectors = dict.fromkeys(CLIENTS, good) | {"hospital-2": np.array([0.5, 7.25, 0.5, 7.25, 0.5])}
    total = aggregator.sum(0, {name: (vector, "patients") for name, vector in vectors.items()})
    aggregator.close()
    assert "hospital-2" not in total.survivors
    logs = {path.name.split(".")[0]: path.read_bytes() for path in tmp_path.iterdir()}
    [withheld] = [e.event for e in read(logs["hospital-2"]).entries if isinstance(e.event, Withheld)]
    assert (withheld.round, withheld.kind) == (0, "CryptoError")
    assert not verify(logs).findings
    [story] = stories(verify(logs))
    assert "It was asked for a vector of round 0 and gave none (CryptoError)." in story.accounts[2].besides


@pytest.mark.parametrize("backend", BACKENDS)
def test_logs_are_the_same_for_all_data(sessions: Sessions, tmp_path: Path, backend: str) -> None:
    """Two sessions over different data: the logs differ only in keys, session numbers, digests and times."""

    def told(session: Audited) -> dict[str, list[object]]:
        return {
            party: [_without_random(msgspec.to_builtins(entry.event)) for entry in read(log).entries]
            for party, log in session.logs.items()
        }

    assert told(audited(tmp_path, backend, silent=[1], seed=99)) == told(sessions[backend])


def _without_random(value: object) -> object:
    if isinstance(value, dict):
        fresh = ("digest", "session", "key", "verify_key", "logs", "accepted", "rows")
        return {name: _without_random(one) for name, one in value.items() if name not in fresh}
    if isinstance(value, list | tuple):
        if value and value[0] in ("parameters", "agreement"):
            return [one for one in value if not (isinstance(one, str) and len(one) == 44)]
        return [_without_random(one) for one in value]
    return value


# ---- writing -------------------------------------------------------------------------------------


def clock() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_a_log_is_continued_after_a_crash(tmp_path: Path) -> None:
    identity, path = Identity.generate(), tmp_path / "log"
    log = AuditLog(path, identity, "site", Role.CLIENT, clock)
    log.append(Refused(bytes(32), bytes(32), 10, "PolicyError"))
    os.close(log._file)  # the program dies
    whole = path.read_bytes()
    for torn in (b"", b"{", whole.splitlines()[-1]):
        path.write_bytes(whole + torn)
        log = AuditLog(path, identity, "site", Role.CLIENT, clock)
        log.close()
        chain = read(path.read_bytes())
        assert not chain.faults
        assert [one.event for one in chain.entries[2:]] == [Resumed(len(torn)), Closed()]
        removed = b',"removed":%d' % len(torn) if torn else b""
        assert b'"event":{"what":"log resumed"' + removed + b"}" in path.read_bytes()
        report = verify({"log": path.read_bytes()})
        assert not report.findings
        assert "had stopped without closing" in report.notes[0].text
    AuditLog(path, identity, "site", Role.CLIENT, clock).close()
    assert [one.line for one in verify({"log": path.read_bytes()}).notes] == [
        3
    ]  # opened after it was closed: fine


def test_a_torn_first_line(tmp_path: Path) -> None:
    path, identity = tmp_path / "log", Identity.generate()
    path.write_bytes(b'{"number":1,')
    AuditLog(path, identity, "site", Role.CLIENT, clock).close()
    assert [type(one.event) for one in read(path.read_bytes()).entries] == [Begun, Resumed, Closed]


def test_a_damaged_log_is_not_continued(tmp_path: Path) -> None:
    identity, path = Identity.generate(), tmp_path / "log"
    AuditLog(path, identity, "site", Role.CLIENT, clock).close()
    damaged = path.read_bytes().replace(b"site", b"sita")
    path.write_bytes(damaged)
    with pytest.raises(
        AuditError, match=r"is damaged and is not continued: line 1: the signature does not fit"
    ):
        AuditLog(path, identity, "site", Role.CLIENT, clock)
    assert path.read_bytes() == damaged
    path.write_bytes(damaged.replace(b"sita", b"site").replace(b'"number":2', b'"number":3') + b"{}\n")
    with pytest.raises(AuditError, match="line 2: the signature does not fit"):  # the first fault is named
        AuditLog(path, identity, "site", Role.CLIENT, clock)
    path.write_bytes(damaged.replace(b"sita", b"site"))
    for other, name in ((Identity.generate(), "site"), (identity, "other")):
        with pytest.raises(AuditError, match="expected an audit log of"):
            AuditLog(path, other, name, Role.CLIENT, clock)
    AuditLog(path, identity, "site", Role.CLIENT, clock).close()


def test_one_process_writes_a_log(tmp_path: Path) -> None:
    identity = Identity.generate()
    log = AuditLog(tmp_path / "log", identity, "site", Role.CLIENT, clock)
    with pytest.raises(AuditError, match="that no other process writes"):
        AuditLog(tmp_path / "log", identity, "site", Role.CLIENT, clock)
    log.close()
    log.close()
    with pytest.raises(AuditError, match="is closed"):
        log.append(Closed())
    with pytest.raises(AuditError, match="cannot open the audit log"):
        AuditLog(tmp_path / "no" / "log", identity, "site", Role.CLIENT, clock)


def test_a_log_is_on_the_disk_line_by_line_and_its_name_before_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's name is synced first, then each line; every file that was opened for it is closed."""
    synced: list[tuple[bool, int]] = []  # whether it was the folder, and how many lines there were

    def fsync(file: int) -> None:
        lines = (tmp_path / "log").read_bytes().count(b"\n")
        synced.append((stat.S_ISDIR(os.fstat(file).st_mode), lines))

    identity, opened = Identity.generate(), os.listdir("/dev/fd")
    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(2):
        log = AuditLog(tmp_path / "log", identity, "site", Role.CLIENT, clock)
        log.close()
        log.close()
    assert synced == [(False, 1), (True, 1), (False, 2)]  # opened and closed again, it says nothing new
    with pytest.raises(AuditError, match="with its present key"):
        AuditLog(tmp_path / "log", identity, "other", Role.CLIENT, clock)
    assert os.listdir("/dev/fd") == opened
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_half_a_line_on_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "log", Identity.generate(), "site", Role.CLIENT, clock)
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[:-1]))
    with pytest.raises(AuditError, match="the disk took only part of a line"):
        log.append(Closed())
    monkeypatch.undo()
    log.close()
    report = verify({"log": (tmp_path / "log").read_bytes()})
    assert [one.text.split(" of ")[0] for one in report.findings] == ["an unfinished line"]


def test_a_folder_of_logs(tmp_path: Path) -> None:
    identity = Identity.generate()
    logs = Logs(tmp_path / "deep" / "down", clock)
    assert logs.of("a / b", Role.CLIENT, identity) is logs.of("a / b", Role.CLIENT, identity)
    assert logs.server is logs.server
    logs.close()
    logs.close()
    assert sorted(path.name for path in (tmp_path / "deep" / "down").iterdir()) == sorted(
        [f"a-b.{identity.verify_key.hex()[:8]}.jsonl", f"server.{logs._server.verify_key.hex()[:8]}.jsonl"]
    )
    for path in (tmp_path / "deep" / "down").iterdir():
        entries = read(path.read_bytes()).entries
        assert [type(one.event) for one in entries] == [Begun, Closed]
        assert {one.time for one in entries} == {clock()}
    (tmp_path / "file").touch()
    with pytest.raises(AuditError, match="cannot make the folder"):
        Logs(tmp_path / "file" / "logs")


def test_what_cannot_be_noted_down_does_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity.generate()
    roster = Roster((Member("site", identity.verify_key),))
    log = AuditLog(tmp_path / "log", identity, "site", Role.CLIENT, clock)
    answers: list[bytes | SumWanted] = []

    class Answering:
        def receive(self, data: bytes) -> bytes:
            answers.append(msgspec.msgpack.encode(["confirm", []]) + bytes(64))
            return answers[-1]  # type: ignore[return-value]

    party = RecordedParty(Answering(), log, roster, [], Policy())
    message = msgspec.msgpack.encode(Survivors(b"\7" * 32, 0, (0, 1)))
    assert party.receive(message) == answers[-1]
    *_, received, sent = (one.event for one in read((tmp_path / "log").read_bytes()).entries)
    assert isinstance(received, Received)
    assert isinstance(sent, Sent)
    # The party was made in the middle of the session, whose number stands in the message.
    assert [received.session, sent.session] == [b"\7" * 32] * 2

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before = (tmp_path / "log").read_bytes()
    assert party.receive(message) == answers[-1]  # the same again is noted once
    assert (tmp_path / "log").read_bytes() == before
    message = msgspec.msgpack.encode(Survivors(bytes(32), 1, (0, 1)))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AuditError, match="No space left on device"):
        party.receive(message)
    monkeypatch.undo()
    assert len(answers) == 3
    with pytest.raises(AuditError, match="an earlier write failed"):
        party.receive(message)  # not half a story
    assert (tmp_path / "log").read_bytes() == before
    log.close()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (PolicyError("too few"), "PolicyError", "too few"),
        (RemoteProtocolError("site", "the server", "no"), "RemoteProtocolError", "site refused a message"),
        (CryptoError("the value 7.25"), "CryptoError", ""),
    ],
)
def test_why_a_message_was_refused(tmp_path: Path, error: SecureAflError, kind: str, reason: str) -> None:
    """The log quotes protocol errors; the text of other errors could tell of a sum."""
    identity = Identity.generate()
    log = AuditLog(tmp_path / "log", identity, "site", Role.CLIENT, clock)

    class Refusing:
        def receive(self, data: bytes) -> bytes:
            raise error

    party = RecordedParty(Refusing(), log, Roster((Member("site", identity.verify_key),)), [], Policy())
    with pytest.raises(type(error)):
        party.receive(b"a message")
    log.close()
    refused = read((tmp_path / "log").read_bytes()).entries[1].event
    assert isinstance(refused, Refused)
    assert (refused.session, refused.digest, refused.size) == (b"", message_digest(b"a message"), 9)
    assert (refused.kind, refused.sender) == (kind, None)
    assert refused.reason.startswith(reason)
    assert bool(refused.reason) == bool(reason)


def test_numbers_are_signed_as_they_are_read(tmp_path: Path) -> None:
    """An integer in a float's place is written as the float that a reader gets."""
    identity = Identity.generate()
    session = audited(tmp_path / "logs")
    [agreed] = [
        one.event for one in read(session.logs["hospital-0"]).entries if isinstance(one.event, Agreed)
    ]
    loose = structs.replace(agreed, policy=Policy(corrupted=0, dropout=0))
    begun = Begun(VERSION, "site", Role.CLIENT, identity.verify_key)
    assert not read(written(identity, [begun, loose], clock())).faults


def test_frames_name_whom_their_messages_name(masked: Audited) -> None:
    frames: list[Frame] = [
        one.event.frame
        for one in read(masked.logs["hospital-0"]).entries
        if isinstance(one.event, Received | Sent)
    ]
    told = {(one.message, one.round): one.members for one in frames}
    assert told["sum request", 0] == (0, 1, 2, 3)
    assert told["survivors", 1] == (0, 2, 3)
    assert told["shares", None] == (1, 2, 3)
    assert told["reveal", 0] == (0, 1, 2, 3)
    assert np.unique([one.size for one in frames if one.message == "upload"]).size == 2


def test_every_policy_can_be_noted_down() -> None:
    """Including one that allows several of a kind: they are written in a fixed order."""
    policy = Policy(profiles=frozenset(Profile), suites=frozenset(Suite), backends=frozenset({"mask", "bfv"}))
    roster = Roster(tuple(Member(name, Identity.generate().verify_key) for name in "ab"))
    terms = Parameters.propose(
        roster, [SumPlan("s", 1, 1.0)], profile=Profile.ACTIVE, suite=Suite.X25519, degree=1, threshold=2
    )
    agreed = Agreed(terms, roster, policy=policy)
    line = signed(Identity.generate(), 1, datetime.now(UTC), b"", agreed)
    assert parse(line).event == agreed
    assert b'"profiles":["active","semi-honest"],"suites":["hybrid","x25519"]' in line


# ---- what other parties hold of a log ------------------------------------------------------------


def test_a_log_that_was_written_anew_is_found(masked: Audited) -> None:
    """The party has the key, so the new chain is valid; but the session's consents name how the old log ended."""
    anew = masked.resigned("hospital-2", lambda events: events)
    assert not masked.verify().findings
    assert not read(anew).faults
    [found] = masked.verify(hospital_2=anew).findings
    assert (
        "hospital-2 signed in round 0 how its log ended then, and no line of hospital-2 ends so" in found.text
    )


def test_a_log_that_was_cut_before_a_consent_is_found(masked: Audited) -> None:
    """Even if a closing entry hides the cut, and only another client's log is at hand."""

    def cut(events: list[AnyEvent]) -> list[AnyEvent]:
        at = next(
            at for at, one in enumerate(events) if isinstance(one, Sent) and one.frame.message == "upload"
        )
        return [*events[:at], Closed()]

    logs = {"hospital-0": masked.logs["hospital-0"], "hospital-2": masked.resigned("hospital-2", cut)}
    texts = [one.text for one in verify(logs).findings]
    assert any(
        "no line of hospital-2 ends so: that log was cut, or written anew afterwards" in one for one in texts
    )


def test_verdicts_are_compared(masked: Audited) -> None:
    def refuses(events: list[AnyEvent]) -> list[AnyEvent]:
        return [
            structs.replace(one, frame=structs.replace(one.frame, accepted=False))
            if isinstance(one, Sent) and one.frame.message == "verdict" and one.frame.round == 1
            else one
            for one in events
        ]

    def other_sum(events: list[AnyEvent]) -> list[AnyEvent]:
        return [
            structs.replace(one, frame=structs.replace(one.frame, digest=bytes(32)))
            if isinstance(one, Received) and one.frame.message == "answer" and one.frame.round == 1
            else one
            for one in events
        ]

    for change, text in (
        (refuses, "hospital-2 refused the opened sum of round 1, which did not fit its tag"),
        (other_sum, "round 1: hospital-2 accepted another opened sum than hospital-0"),
    ):
        texts = [one.text for one in masked.verify(hospital_2=masked.resigned("hospital-2", change)).findings]
        assert any(text in one for one in texts), texts
