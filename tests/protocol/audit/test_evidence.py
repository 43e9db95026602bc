"""Evidence of sums that clients made again: who has the logs and the kept messages makes them again, and finds who lied."""

from pathlib import Path

import pytest
from msgspec import structs
from worlds.audits import CLIENTS, Audited, audited

from secure_afl.crypto.identity import SIGNATURE_BYTES
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.check import Report, verify
from secure_afl.protocol.audit.events import AnyEvent, Received, message_digest
from secure_afl.protocol.audit.log import EVIDENCE, kept
from secure_afl.protocol.audit.story import stories
from secure_afl.protocol.masking import messages
from secure_afl.protocol.masking.messages import Evidence, SumRequest, Vote
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.wire import answered, decode, encode, rooted_frame
from secure_afl.testing.faults import Fault

pytestmark = pytest.mark.slow


class Replayed:
    """A session of two sums with a dropout, its logs and its evidence."""

    def __init__(self, folder: Path, session: Audited) -> None:
        self.folder, self.session = folder, session
        self.kept = {path.name: path.read_bytes() for path in (folder / EVIDENCE).iterdir()}

    def verify(self, **changed: bytes) -> Report:
        logs = self.session.logs | {name.replace("_", "-"): data for name, data in changed.items()}
        return verify(logs, evidence=lambda digest: self.kept.get(digest.hex()))

    def evidence(self, number: int) -> Evidence:
        found = [decode(data, messages.FROM_SERVER) for data in self.kept.values()]
        return next(one for one in found if isinstance(one, Evidence) and one.round == number)

    def given(self, party: str, other: Evidence) -> bytes:
        """The log of a party that was given other evidence, which it keeps."""
        data = encode(other)
        self.kept[message_digest(data).hex()] = data

        def changed(events: list[AnyEvent]) -> list[AnyEvent]:
            return [
                structs.replace(
                    one, frame=structs.replace(one.frame, digest=message_digest(data), size=len(data))
                )
                if isinstance(one, Received)
                and one.frame.message == "evidence"
                and one.frame.round == other.round
                else one
                for one in events
            ]

        return self.session.resigned(party, changed)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Audited]:
    folder = tmp_path_factory.mktemp("logs")
    return folder, audited(folder, silent=[1], policy=Policy(verify=frozenset({Verify.REPLAY})))


@pytest.fixture
def replayed(session: tuple[Path, Audited]) -> Replayed:
    return Replayed(*session)


def test_sums_are_made_again_from_the_logs(replayed: Replayed) -> None:
    """All clients keep the same message for a sum; where it is missing the report says so."""
    assert len(replayed.kept) == 2
    paths = [replayed.folder / "a.jsonl"]
    assert all(kept(paths)(bytes.fromhex(name)) == data for name, data in replayed.kept.items())
    assert kept(paths)(bytes(32)) is None
    report = replayed.verify()
    assert not report.findings
    assert not any("made again" in one.text for one in report.notes)
    assert "made again by every client in the sum, from all uploads" in str(stories(report)[0].facts)
    replayed.kept.clear()
    report = replayed.verify()
    assert not report.findings
    assert sum("is not there, so the sum was not made again" in one.text for one in report.notes) == 6


def test_evidence_of_a_refused_sum_is_not_kept(tmp_path: Path) -> None:
    """Else a server could fill the disk of a client with bytes of its choice."""

    def other(data: bytes) -> bytes:
        return encode(structs.replace(decode(data, messages.FROM_SERVER), directory=bytes(32)))

    lie = Fault(other, "answering", frozenset({2}), upward=False)
    session = audited(tmp_path, faults=[lie], policy=Policy(verify=frozenset({Verify.REPLAY})))
    refused = [
        one.event.frame
        for one in read(session.logs["hospital-2"]).entries
        if isinstance(one.event, Received) and one.event.frame.message == "evidence"
    ]
    assert len(refused) == 1  # it takes part in nothing more
    accepted = {path.name for path in (tmp_path / EVIDENCE).iterdir()}
    assert len(accepted) == 2
    assert refused[0].digest.hex() not in accepted
    report = verify(session.logs, evidence=kept([tmp_path / "a.jsonl"]))
    assert not any("made again" in one.text for one in report.notes)
    assert any(
        "hospital-2" in one.text and "refused" in one.text for one in (*report.findings, *report.notes)
    )


def test_another_file_is_not_what_the_log_says(replayed: Replayed) -> None:
    for name, data in replayed.kept.items():
        replayed.kept[name] = data[:-1] + bytes([data[-1] ^ 1])
    texts = [one.text for one in replayed.verify().findings]
    assert sum("its evidence does not give: the file is not what the log says" in one for one in texts) == 6


def test_a_spoiled_copy_beside_one_log_blames_nobody_else(replayed: Replayed, tmp_path: Path) -> None:
    """All parties keep the same message. One party, whose log is read first, puts another file in its place."""
    logs = []
    for who in ("a", "b"):
        folder = tmp_path / who / EVIDENCE
        folder.mkdir(parents=True)
        logs.append(folder.parent / "audit.jsonl")
        for name, data in replayed.kept.items():
            (folder / name).write_bytes(b"spoiled" if who == "a" else data)
    report = verify(replayed.session.logs, evidence=kept(logs))
    assert not report.findings


def test_forged_evidence(replayed: Replayed) -> None:
    """A party took a wrong sum and rewrites its log and evidence to justify that."""
    honest = replayed.evidence(1)
    for forged, why in (
        (
            structs.replace(honest, seeds=((0, bytes(32)), *honest.seeds[1:])),
            "the masks that hospital-0 committed",
        ),
        (structs.replace(honest, votes=honest.votes[:2]), "at least 3 consents"),
        (structs.replace(honest, directory=bytes(32)), "at least 3 consents"),
        (
            structs.replace(honest, uploads=((0, honest.uploads[1][1]), *honest.uploads[1:])),
            "wrong signature",
        ),
    ):
        report = replayed.verify(hospital_2=replayed.given("hospital-2", forged))
        texts = [one.text for one in report.findings if one.file == "hospital-2"]
        assert any(
            f"hospital-2 accepted a sum that its evidence does not give: expected {why}" in one or why in one
            for one in texts
        )


def test_a_log_that_has_a_sum_without_its_evidence(replayed: Replayed) -> None:
    """Else the page says that every client made the sum again, whether or not one did."""

    def left_out(events: list[AnyEvent]) -> list[AnyEvent]:
        return [one for one in events if not (isinstance(one, Received) and one.frame.message == "evidence")]

    report = replayed.verify(hospital_2=replayed.session.resigned("hospital-2", left_out))
    texts = [one.text for one in report.findings]
    for number in (0, 1):
        assert f"round {number}: hospital-2 accepted a sum, and its log has no evidence of it" in texts


def test_consents_left_out_or_added_are_no_other_sum(replayed: Replayed) -> None:
    """A server gives one party more consents to a sum than others: it would be accused of having accepted another one. What is
    told is that the server's log has another message.
    """
    honest = replayed.evidence(1)
    (absent,) = set(range(len(CLIENTS))) - set(honest.survivors)
    spoiled = structs.replace(honest.votes[0][1], signature=bytes(SIGNATURE_BYTES))
    more = structs.replace(honest, votes=tuple(sorted((*honest.votes, (absent, spoiled)))))
    texts = [one.text for one in replayed.verify(hospital_2=replayed.given("hospital-2", more)).findings]
    assert any("“evidence” of round 1" in one and "server" in one for one in texts)
    assert not [one for one in texts if "accepted" in one or "two uploads" in one]


def test_a_member_that_signed_two_uploads_is_named(replayed: Replayed) -> None:
    """If all who consented collude, two sums are possible; the two signatures name who uploaded twice."""
    honest, keys = replayed.evidence(0), replayed.session.identities
    transcript, survivors = honest.transcript, honest.survivors
    upload = decode(memoryview(honest.uploads[0][1])[:-SIGNATURE_BYTES], messages.UPLOAD)
    changed = bytes([upload.payload[0] ^ 1]) + bytes(upload.payload[1:])
    question = answered(encode(SumRequest(transcript, 0, honest.participants)))
    frame, root = rooted_frame(
        keys[CLIENTS[0]], transcript, question, 0, structs.replace(upload, payload=memoryview(changed))
    )
    report = replayed.verify()
    assert not report.findings
    # Roots of the others' uploads, out of what they signed.
    roots = [root, *(dict(honest.votes)[who].upload for who in survivors[1:])]
    sets = (honest.participants, survivors)
    view = messages.consent_parts(transcript, honest.directory, 0, *sets, roots)
    votes = tuple(
        (who, Vote.sign(keys[CLIENTS[who]], view, upload=one, accepted=b"", log=b""))
        for who, one in zip(survivors, roots, strict=True)
    )
    other = structs.replace(honest, uploads=((0, memoryview(frame)), *honest.uploads[1:]), votes=votes)
    texts = [one.text for one in replayed.verify(hospital_3=replayed.given("hospital-3", other)).findings]
    assert any(
        "round 0: hospital-0 signed two uploads, one in the evidence of hospital-0, another in that of hospital-3"
        in one
        for one in texts
    )
    assert "round 0: hospital-3 accepted a sum of other uploads than it consented to" in texts
