"""Compare the logs of several parties.

A damaged log is reported and left out of the comparison. Each message that one log records must also stand in the log
of the party at the other end; otherwise one of the two logs is wrong. A message that was sent but never arrived, or
arrived twice, is no contradiction, as networks lose and repeat messages. A message that arrived but was never sent is
one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from secure_afl.crypto.errors import CryptoError
from secure_afl.protocol.audit.chain import Chain, read
from secure_afl.protocol.audit.events import (
    Aborted,
    Acknowledged,
    Agreed,
    AnyEvent,
    Approved,
    Begun,
    Closed,
    Continues,
    EndAnswered,
    Entry,
    Foreign,
    Forgotten,
    Frame,
    InSession,
    Proposal,
    Received,
    Refused,
    Released,
    Renewed,
    Resumed,
    Revoked,
    Role,
    Sent,
    Taken,
    Twins,
    end_answered,
    line_digest,
    message_digest,
)
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.agreement import Agreement, Release
from secure_afl.protocol.masking import messages as masking
from secure_afl.protocol.masking.replay import check_consents, replayed, survivor_roots
from secure_afl.protocol.session.errors import AuditError, PolicyError, ProtocolError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.parameters import Parameters
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import WireError, decode

E = TypeVar("E", bound=AnyEvent)
SURVIVORS = ("survivors", "survivor roots")
"""Messages that name the survivors of a masked sum."""


@dataclass(frozen=True)
class Finding:
    """A fault or a note, with its file and its line, counted from 1."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.text}"


@dataclass(frozen=True)
class At(Generic[E]):
    """An event and its entry, in which line of which file."""

    file: str
    line: int
    entry: Entry
    event: E

    def finding(self, text: str) -> Finding:
        """A fault or a note about this line."""
        return Finding(self.file, self.line, text)


@dataclass(frozen=True)
class Log:
    """One log file."""

    file: str
    begun: Begun
    chain: Chain

    def of(self, kind: type[E]) -> list[At[E]]:
        """The events of one kind, in order."""
        entries = enumerate(self.chain.entries, 1)
        return [At(self.file, line, one, one.event) for line, one in entries if isinstance(one.event, kind)]


@dataclass
class View:
    """What one log records of one session."""

    log: Log
    agreed: At[Agreed]
    index: int  # the party's index; −1 is the server
    events: list[At[AnyEvent]] = field(default_factory=list)

    def of(self, kind: type[E]) -> list[At[E]]:
        """The events of one kind, in order."""
        return [
            At(one.file, one.line, one.entry, one.event) for one in self.events if isinstance(one.event, kind)
        ]

    def sent(self, *messages: str) -> list[At[Sent]]:
        return [one for one in self.of(Sent) if one.event.frame.message in messages]

    def received(self, *messages: str) -> list[At[Received]]:
        return [one for one in self.of(Received) if one.event.frame.message in messages]


@dataclass
class Session:
    """What all logs record of one session."""

    terms: Proposal
    roster: Roster
    holders: Roster | None
    server: View | None = None
    parties: dict[int, View] = field(default_factory=dict)  # by number

    @property
    def transcript(self) -> bytes:
        return self.terms.transcript()

    @property
    def number(self) -> str:
        """The session's short name, as in ledgers and nodes' logs. Encrypted masks have the same name."""
        return session_name(self.terms.session)

    @property
    def invited(self) -> tuple[int, ...]:
        """The indices of all parties but the server."""
        members, key_holders = len(self.roster.members), len(self.holders.members) if self.holders else 0
        return (*self.terms.cohort, *range(members, members + key_holders))

    def name(self, index: int) -> str:
        at = index - len(self.roster.members)
        return self.holders.name(at) if self.holders and at >= 0 else self.roster.name(index)

    def key(self, index: int) -> bytes:
        at = index - len(self.roster.members)
        member = self.holders.members[at] if self.holders and at >= 0 else self.roster.members[index]
        return member.verify_key


@dataclass(frozen=True)
class Report:
    """findings: faults; notes: observations that are not faults; sessions: in the order of their logs."""

    logs: tuple[Log, ...]
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    sessions: tuple[Session, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """Parties of sessions, including the server, without a valid log: what they did is not checked."""
        names = {
            session.name(index): None
            for session in self.sessions
            for index in session.invited
            if index not in session.parties
        }
        if any(session.server is None for session in self.sessions):
            names = {"the server": None, **names}
        return tuple(names)


Evidence = Callable[[bytes], bytes | None]
"""Gives the message with this digest in a log, if it was kept; see `AuditLog.keep`."""


def verify(
    files: Mapping[str, bytes], parties: Parties | None = None, evidence: Evidence = lambda digest: None
) -> Report:
    """Check logs, given as file contents by name, each by itself and all against each other.

    parties: the rosters as known from outside; without them the keys in the logs are used. evidence: of sums that clients
    made again; what is there is replayed.
    """
    findings: list[Finding] = []
    notes: list[Finding] = []
    logs: list[Log] = []
    sound: list[Log] = []
    joined, missing = _joined(files)
    findings += missing
    for file, data in joined.items():
        chain = read(data)
        findings += [Finding(file, line, text) for line, text in chain.faults]
        if chain.begun is None:
            continue
        log = Log(file, chain.begun, chain)
        logs.append(log)
        if twin := [one.file for one in sound if one.begun.key == chain.begun.key]:
            findings.append(
                Finding(file, 1, f"the log of {chain.begun.party} was already given, as {twin[0]}")
            )
        elif chain.faults:
            notes.append(Finding(file, 1, f"the log of {chain.begun.party} is not compared with others"))
        else:
            sound.append(log)
            findings += _ends(log)
            notes += [*_resumed(log), *_told(log)]
    findings += _unended(sound)
    sessions: dict[bytes, Session] = {}
    for log in sound:
        findings += _sort(log, sessions)
    for one in sessions.values():
        if parties is not None:
            findings += _known(one, parties)
        findings += [*_terms(one), *_announced(one), *_messages(one), *_policies(one), *_silent(one, sound)]
        findings += [*_cut(one, sound), *_rewritten(one), *_verdicts(one), *_models(one)]
        faults, absent = _replays(one, evidence)
        findings += faults
        notes += [*_lost(one), *_missing(one), *_unverified(one), *absent]
    for one in sessions.values():
        masks = sessions.get(one.terms.masks) if isinstance(one.terms, Agreement) else None
        findings += [*_releases(one), *_layers(one, masks)]
    return Report(tuple(logs), tuple(findings), tuple(notes), tuple(sessions.values()))


def _joined(files: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[Finding]]:
    """Logs in several files as one each, under all their names: lines are counted on from the first file."""
    chains = {file: read(data) for file, data in files.items()}
    later = {file: one.begun.part for file, one in chains.items() if one.begun and one.begun.part}
    found = {file: data for file, data in files.items() if file not in later}
    ends = {chains[file].last: file for file in found}
    missing = []
    for file in sorted(later, key=lambda one: later[one]):
        before = ends.pop(chains[file].entries[0].previous, None)
        if before is None:
            missing.append(
                Finding(
                    file,
                    1,
                    f"expected part {later[file]} of this log, which this file continues, got no file that ends where it begins: "
                    "it was not given, or something was changed",
                )
            )
        name = file if before is None else f"{before} + {Path(file).name}"
        found[name] = (b"" if before is None else found.pop(before)) + files[file]
        ends[chains[file].last] = name
    return {name: found[name] for name in sorted(found, key=list(found).index)}, missing


# ---- each log by itself --------------------------------------------------------------------------


def _ends(log: Log) -> Iterator[Finding]:
    lines = len(log.chain.entries)
    if log.chain.torn:
        yield Finding(
            log.file,
            lines + 1,
            f"an unfinished line of {log.chain.torn} bytes: the program stopped, or it was cut",
        )
    elif isinstance(log.chain.entries[-1].event, Continues):
        yield Finding(log.file, lines, "the log goes on in another file, which was not given")
    elif not isinstance(log.chain.entries[-1].event, Closed):
        yield Finding(
            log.file,
            lines,
            "the log ends here without its closing entry: its party is still at work or stopped, or the last lines "
            "were removed",
        )


def _resumed(log: Log) -> Iterator[Finding]:
    for line, (before, entry) in enumerate(zip(log.chain.entries, log.chain.entries[1:], strict=False), 2):
        if isinstance(entry.event, Resumed) and (entry.event.removed or not isinstance(before.event, Closed)):
            yield Finding(
                log.file,
                line,
                f"{log.begun.party} had stopped without closing its log; {entry.event.removed} bytes of an unfinished "
                "line were removed",
            )


def _told(log: Log) -> Iterator[Finding]:
    """What happened at a party beside its sessions: its operator's decisions, messages and nodes that are not ours."""
    party = log.begun.party
    for line, entry in enumerate(log.chain.entries, 1):
        match entry.event:
            case Renewed(used, uploaded):
                left = "although a vector of it had left" if uploaded else "of which no vector had left"
                said = (
                    f"{party} renewed a data set of session {session_name(used)} for another session, {left}"
                )
            case Forgotten(by, reason):
                said = (
                    f"{by} began the ledger of {party} anew, so which data sets were used before is known to its people alone: "
                    f"{reason}"
                )
            case Approved(study=study, by=by, reason=reason):
                said = f"{by} approved study {study.hex()[:16]}… at {party}: {reason}"
            case Revoked(study, by, reason):
                said = f"{by} revoked study {study.hex()[:16]}… at {party}: {reason}"
            case Foreign(kind, app):
                said = (
                    f"{party} refused a message of another protocol, {kind!r}, of a run of the app {app[:16]}…: someone submitted "
                    "that app, and none of its code ran here"
                )
            case Twins(whose):
                said = f"{party} saw two nodes with the identity of {whose}: its folder was copied, or a killed node replaced"
            case _:
                continue
        yield Finding(log.file, line, said)


def _sort(log: Log, sessions: dict[bytes, Session]) -> Iterator[Finding]:
    """Sort a log's events into sessions. Yields a finding for each event that fits none."""
    views: dict[bytes, View] = {}
    for line, entry in enumerate(log.chain.entries, 1):
        event = entry.event
        one: At[Any] = At(log.file, line, entry, event)
        if isinstance(event, Agreed):
            try:
                views[event.terms.transcript()] = _view(log, one, sessions)
            except ProtocolError as error:
                yield one.finding(str(error))
        elif isinstance(event, Taken):  # which knows the session's number
            of = [view for view in views.values() if view.agreed.event.terms.session == event.session]
            for view in of:
                view.events.append(one)
            if not of:
                yield one.finding("takes a model of a session that this log does not record")
        elif isinstance(event, InSession):
            if event.session in views:
                views[event.session].events.append(one)
            elif not isinstance(event, Refused):  # a refusal may precede the agreement
                yield one.finding("belongs to a session that this log does not record as agreed on")


def _view(log: Log, agreed: At[Agreed], sessions: dict[bytes, Session]) -> View:
    event, role = agreed.event, log.begun.role
    digests = [event.terms.roster, *([event.terms.holders] if isinstance(event.terms, Agreement) else [])]
    rosters = [event.roster, *([event.holders] if event.holders and len(digests) > 1 else [])]
    if digests != [one.digest for one in rosters]:
        raise AuditError("the rosters in this log differ from those in the terms of the session")
    if event.terms.cohort[-1] >= len(event.roster.members):
        raise AuditError("the cohort names a client that is not in the roster")
    holders = event.holders if isinstance(event.terms, Agreement) else None
    session = Session(event.terms, event.roster, holders)
    session = sessions.setdefault(session.transcript, session)
    if role is Role.SERVER:
        if twins := [session.name(one) for one in session.invited if session.key(one) == log.begun.key]:
            raise AuditError(
                f"the server's log is signed with the key of {twins[0]}, a party of its own sums"
            )
        if session.server is not None:
            raise AuditError(f"{session.server.log.file} already holds this session, as its server's log")
        session.server = View(log, agreed, -1)
        return session.server
    index = next((one for one in session.invited if session.key(one) == log.begun.key), None)
    if index is None or session.name(index) != log.begun.party:
        raise AuditError(f"the log is not signed with {log.begun.party}'s key in the session's roster")
    view = session.parties.setdefault(index, View(log, agreed, index))
    if view.agreed.event != event:  # an identical event answers a repeated invitation
        raise AuditError("the session was agreed on before, with another plan or policy")
    return view


# ---- logs against each other ---------------------------------------------------------------------


def _known(session: Session, parties: Parties) -> Iterator[Finding]:
    """The session's clients and key holders are the known ones, and their keys sign their logs."""
    view = next(iter(session.parties.values()), session.server)
    assert view is not None  # otherwise the session would not exist
    for what, named, known in (
        ("clients", session.roster, parties.clients),
        ("key holders", session.holders, parties.key_holders),
    ):
        if named is not None and (known is None or named.digest != known.digest):
            fingerprint = "none" if known is None else known.digest.hex()[:16] + "…"
            yield view.agreed.finding(
                f"the session's {what} are those of roster {named.digest.hex()[:16]}…, not of the given one "
                f"({fingerprint})"
            )


def _terms(session: Session) -> Iterator[Finding]:
    """The session's rounds are those that every party planned."""
    for view in session.parties.values():
        planned = [(one.statistic, one.length) for one in view.agreed.event.plan]
        if planned != [(one.statistic, one.length) for one in session.terms.rounds]:
            yield view.agreed.finding("the session's sums differ from this party's plan")
    views = list(session.parties.values())
    for view in views[1:]:
        if view.agreed.event.plan != views[0].agreed.event.plan:
            yield view.agreed.finding(
                f"the plan differs from that of {views[0].log.begun.party} in {views[0].log.file}"
            )


def _announced(session: Session) -> Iterator[Finding]:
    """All clients were told the same layers: a server that tells clients different layers can read rows from them."""
    heard: dict[int, tuple[bytes, View]] = {}  # by size: what is announced only grows
    for view in session.parties.values():
        for one in view.received("learned"):
            digest, first = heard.setdefault(one.event.frame.size, (one.event.frame.digest, view))
            if digest != one.event.frame.digest:
                yield one.finding(
                    f"{view.log.begun.party} was told different layers than {first.log.begun.party} in {first.log.file}"
                )
    server, said = session.server, dict[int, bytes]()
    if server is None:
        return
    for sent in server.sent("learned"):
        if said.setdefault(sent.event.frame.size, sent.event.frame.digest) != sent.event.frame.digest:
            yield sent.finding("the server told different layers before")


def _messages(session: Session) -> Iterator[Finding]:
    """Every message that arrived was sent, to the server and from it."""
    server = session.server
    if server is None:
        return
    for index, view in session.parties.items():
        name = session.name(index)
        for sender, sends, receives in (
            (view, view.of(Sent), [one for one in server.of(Received) if one.event.sender == index]),
            (server, [one for one in server.of(Sent) if index in one.event.to], view.of(Received)),
        ):
            known = {one.event.frame.digest: one.event.frame for one in sends}
            for one in receives:
                frame, whence = one.event.frame, "the server" if sender is server else name
                if frame.digest not in known:
                    yield one.finding(
                        f"{_said(frame)} arrived from {whence}, whose log {sender.log.file} does not record sending it"
                    )
                elif known[frame.digest] != frame:
                    yield one.finding(f"{_said(frame)} is described differently in {sender.log.file}")


def _lost(session: Session) -> Iterator[Finding]:
    server = session.server
    if server is None:
        return
    for index, view in session.parties.items():
        for sends, receiver in (
            (view.of(Sent), server),
            ([one for one in server.of(Sent) if index in one.event.to], view),
        ):
            arrived = {one.event.frame.digest for one in receiver.of(Received)}
            refused = {one.event.digest for one in receiver.of(Refused)}
            for one in sends:
                if one.event.frame.digest in arrived:
                    continue
                fate = "was refused by" if one.event.frame.digest in refused else "did not reach"
                whom = "the server" if receiver is server else session.name(index)
                yield one.finding(f"{_said(one.event.frame)} {fate} {whom}")


def _missing(session: Session) -> Iterator[Finding]:
    """Parties whose logs are missing."""
    view = session.server or next(iter(session.parties.values()))
    missing = [session.name(index) for index in session.invited if index not in session.parties]
    if session.server is None:
        missing.insert(0, "the server")
    if missing:
        yield view.agreed.finding(
            f"session {session.number}: no valid log of {', '.join(missing)} records taking part"
        )


def _silent(session: Session, logs: Sequence[Log]) -> Iterator[Finding]:
    """Parties that took part in the session according to others, while their own logs do not mention it."""
    for log in logs:
        index = next((one for one in session.invited if session.key(one) == log.begun.key), None)
        if session.server is None or index is None or index in session.parties:
            continue
        for one in session.server.of(Received):
            if one.event.sender == index:
                yield one.finding(
                    f"{_said(one.event.frame)} arrived from {session.name(index)}, whose log {log.file} does not mention "
                    "this session"
                )
                break
    servers = [log.file for log in logs if log.begun.role is Role.SERVER]
    if session.server is None and servers:
        view = next(iter(session.parties.values()))
        yield view.agreed.finding(f"the server's log does not mention this session: {', '.join(servers)}")


_VOUCHES = {
    "directory": "advertise",
    "delivery": "shares",
    "sum request": "confirm",
    "survivors": "upload",
    "survivor roots": "upload",
    "consents": "consent",
    "check": "encrypted upload",
}
"""What every member that a server's message names must have sent before."""


def _cut(session: Session, logs: Sequence[Log]) -> Iterator[Finding]:
    """Incomplete logs, and contradictory survivor sets, without the server's log.

    A log is incomplete if the server named its party to others and the log lacks what that party must have sent before.
    """
    given = {
        index: log.file for log in logs for index in session.invited if session.key(index) == log.begun.key
    }
    sent = {
        (index, one.event.frame.message, one.event.frame.round, one.event.frame.attempt)
        for index, view in session.parties.items()
        for one in view.of(Sent)
    }
    heard = session.server.of(Received) if session.server else []
    # Comparing with the server's log finds what the server received and the party's log lacks.
    sent |= {
        (one.event.sender, one.event.frame.message, one.event.frame.round, one.event.frame.attempt)
        for one in heard
        if one.event.sender is not None
    }
    named: set[int] = set()
    shown: dict[tuple[str, int | None, int | None], tuple[tuple[int, ...], View]] = {}
    for view in session.parties.values():
        for one in view.received(*_VOUCHES):
            frame = one.event.frame
            kind = _VOUCHES[frame.message]
            of_round = frame.message not in ("directory", "delivery")
            if of_round and (frame.round is None or frame.round >= len(session.terms.rounds)):
                continue  # unplanned rounds are reported elsewhere
            if frame.message in (*SURVIVORS, "check"):
                members, first = shown.setdefault(
                    (frame.message, frame.round, frame.attempt), (frame.members, view)
                )
                if members != frame.members:
                    yield one.finding(
                        f"round {frame.round}: {view.log.begun.party} was told of a sum over "
                        f"{_names(session, frame.members)}, {first.log.begun.party} of one over "
                        f"{_names(session, members)} ({first.log.file})"
                    )
            number = frame.round if kind in ("upload", "consent", "encrypted upload") else None
            for index in frame.members:
                if index not in given or (index, kind, number, frame.attempt) in sent:
                    continue
                if index in named:  # report it once
                    continue
                named.add(index)
                at = f" of round {number}" if number is not None else ""
                yield one.finding(
                    f"“{frame.message}” names {session.name(index)}, whose log {given[index]} has no “{kind}”{at}: that "
                    "log ends early or is incomplete"
                )


def _rewritten(session: Session) -> Iterator[Finding]:
    """Parties whose logs lack the line that they signed into a consent as their last one, before others."""
    named: set[int] = set()
    for view in session.parties.values():
        for one in view.received("consents"):
            for index, head in one.event.frame.logs:
                other = session.parties.get(index)
                if other is None or index in named:
                    continue
                chain = other.log.chain
                if head != chain.last and head not in {entry.previous for entry in chain.entries}:
                    named.add(index)
                    yield one.finding(
                        f"{session.name(index)} signed in round {one.event.frame.round} how its log ended then, and no line of "
                        f"{other.log.file} ends so: that log was cut, or written anew afterwards"
                    )


def _unended(logs: Sequence[Log]) -> Iterator[Finding]:
    """Parties whose logs lack the line with which they answered the end of a session, by the server's log."""
    given = {log.begun.key: log for log in logs}
    lines = {log.begun.key: {log.chain.last, *(one.previous for one in log.chain.entries)} for log in logs}
    for log in logs:
        for one in log.of(Acknowledged):
            try:
                entry = end_answered(one.event.key, one.event.line)
            except WireError as error:
                yield one.finding(f"it says how a party answered the end of a session: {error}")
                continue
            other = given.get(one.event.key)
            if other is None or entry.number < other.chain.entries[0].number:
                continue  # not given, which is told elsewhere
            if line_digest(one.event.line) not in lines[one.event.key]:
                assert isinstance(entry.event, EndAnswered)
                yield one.finding(
                    f"{other.begun.party} answered the end of session {session_name(entry.event.session)} with line "
                    f"{entry.number} of its log, and {other.file} has another line there or none: that log was cut, or written "
                    "anew afterwards"
                )


def _verdicts(session: Session) -> Iterator[Finding]:
    """All clients that checked a round's opened sum accepted the same one. With replay the roots of the uploads fix it."""
    accepted: dict[int | None, tuple[bytes | None, View]] = {}
    for view in session.parties.values():
        answers = {
            one.event.frame.round: one.event.frame.digest for one in view.received("answer", "survivor roots")
        }
        for one in view.sent("verdict"):
            frame = one.event.frame
            if not frame.accepted:
                yield one.finding(
                    f"{view.log.begun.party} refused the opened sum of round {frame.round}, which did not fit its tag or "
                    "the uploads: the server gave out another sum, or a client sent a tag of another vector"
                )
                continue
            digest, first = accepted.setdefault(frame.round, (answers.get(frame.round), view))
            if digest != answers.get(frame.round):
                yield one.finding(
                    f"round {frame.round}: {view.log.begun.party} accepted another opened sum than "
                    f"{first.log.begun.party} in {first.log.file}"
                )


def _replays(session: Session, evidence: Evidence) -> tuple[list[Finding], list[Finding]]:
    """The sums of a session, made again from the evidence that parties kept: what is wrong, and what is not there."""
    faults: list[Finding] = []
    absent: list[Finding] = []
    uploads: dict[tuple[int, int], tuple[bytes, View]] = {}
    told: dict[bytes, tuple[masking.Evidence, list[bytes]] | str] = {}
    for view in session.parties.values():
        verdicts = {one.event.frame.round: one.event.frame.accepted for one in view.sent("verdict")}
        consented = {one.event.frame.round: one.event.frame.digest for one in view.received("survivor roots")}
        given = {one.event.frame.round for one in view.received("evidence")}
        for said in view.sent("verdict"):
            number = said.event.frame.round
            if (
                number in consented and verdicts[number] and number not in given
            ):  # with roots, a sum is replayed
                text = f"round {number}: {view.log.begun.party} accepted a sum, and its log has no evidence of it"
                faults.append(said.finding(text))
        for one in view.received("evidence"):
            frame, party = one.event.frame, view.log.begun.party
            if frame.digest not in told:
                told[frame.digest] = _replayed(session, evidence(frame.digest), frame.digest)
            found = told[frame.digest]
            if isinstance(found, str) and not found:
                if verdicts.get(frame.round) is not False:  # else it kept none
                    text = f"round {frame.round}: the evidence that {party} was given is not there, so the sum was not made again"
                    absent.append(one.finding(text))
            elif isinstance(found, str):
                if verdicts.get(frame.round):  # else it refused the sum itself
                    text = f"round {frame.round}: {party} accepted a sum that its evidence does not give: {found}"
                    faults.append(one.finding(text))
            else:
                message, roots = found
                fixed = message_digest(survivor_roots(message, roots))
                if verdicts.get(frame.round) and consented.get(frame.round) != fixed:
                    text = (
                        f"round {frame.round}: {party} accepted a sum of other uploads than it consented to"
                    )
                    faults.append(one.finding(text))
                for who, root in zip(message.survivors, roots, strict=True):
                    first, other = uploads.setdefault((message.round, who), (root, view))
                    if first != root:
                        text = (
                            f"round {message.round}: {session.name(who)} signed two uploads, one in the evidence of "
                            f"{other.log.begun.party}, another in that of {party}"
                        )
                        faults.append(one.finding(text))
    return faults, absent


def _replayed(
    session: Session, data: bytes | None, digest: bytes
) -> tuple[masking.Evidence, list[bytes]] | str:
    """The evidence and the roots of its uploads; or why no sum follows from it, nothing if there is none."""
    if data is None or not isinstance(session.terms, Parameters):
        return ""
    if message_digest(data) != digest:
        return "the file is not what the log says"
    try:
        message = decode(data, masking.FROM_SERVER)
        if not isinstance(message, masking.Evidence):
            return "the file has another message"
        _, roots = replayed(session.terms, session.roster, message)
        check_consents(session.terms, session.roster, message, roots)
    except (WireError, CryptoError) as error:
        return str(error)
    return message, roots


def _models(session: Session) -> Iterator[Finding]:
    """All parties that checked the sums of a session took the model of the same ones, each of those that it accepted."""
    if not isinstance(session.terms, Parameters):
        return  # encrypted sums are checked in the session of their masks
    first: dict[int, tuple[bytes, tuple[int, ...], View]] = {}
    for view in session.parties.values():
        verdicts = {one.event.frame.round: one.event.frame.accepted for one in view.sent("verdict")}
        for one in view.of(Taken):
            if not one.event.unverified and False in verdicts.values():
                yield one.finding(
                    f"{view.log.begun.party} took the model as verified, and had refused a sum of the session"
                )
            for checked in one.event.sums:
                if not verdicts.get(checked.round):
                    yield one.finding(
                        f"{view.log.begun.party} took the model of a sum of round {checked.round}, which its log does not record "
                        "accepting"
                    )
                digest, survivors, other = first.setdefault(
                    checked.round, (checked.digest, checked.survivors, view)
                )
                if (digest, survivors) != (checked.digest, checked.survivors):
                    yield one.finding(
                        f"round {checked.round}: {view.log.begun.party} took the model of another sum, over "
                        f"{_names(session, checked.survivors)}, than {other.log.begun.party} in {other.log.file}, over "
                        f"{_names(session, survivors)}"
                    )


def _unverified(session: Session) -> Iterator[Finding]:
    for view in session.parties.values():
        for one in view.of(Taken):
            if one.event.unverified:
                yield one.finding(
                    f"{view.log.begun.party} took the model as the server says, unverified: {one.event.unverified}"
                )


def _policies(session: Session) -> Iterator[Finding]:
    """Each party's policy allows what it agreed to and every group that it answered for."""
    terms, members = session.terms, len(session.roster.members)
    for view in session.parties.values():
        policy, plan = view.agreed.event.policy, view.agreed.event.plan
        if policy is None:
            yield view.agreed.finding("the log does not record the party's policy")
            continue
        try:
            _check_terms(policy, terms, members)
        except ProtocolError as error:
            yield view.agreed.finding(f"against the party's own policy: {error}")
        opened = {one.event.frame.round for one in view.sent("opened")}
        related: dict[int, tuple[int, ...]] = {}  # by round; the last attempt of a repeated round
        for one in view.received(*SURVIVORS, "check", "offer"):
            frame = one.event.frame
            if frame.round is None or frame.round >= len(plan):
                yield one.finding("belongs to a round that was not planned")
                continue
            planned = plan[frame.round]
            try:
                policy.check_group("clients in a sum", len(frame.members), members, planned.survivors)
            except PolicyError as error:
                yield one.finding(f"against the party's own policy: {error}")
            if planned.same_survivors and (view.log.begun.role is Role.CLIENT or frame.round in opened):
                related[frame.round] = frame.members
        if len(set(related.values())) > 1:
            yield view.agreed.finding(
                "sums planned over the same clients were answered for over different clients"
            )
        for kind in ("reveal", "opened"):
            answered: dict[int | None, bytes] = {}
            for answer in view.sent(kind):
                number, data = answer.event.frame.round, answer.event.frame.digest
                # An identical answer answers a repeated question.
                if answered.setdefault(number, data) != data:
                    yield answer.finding(f"round {number} was already answered for")


def _check_terms(policy: Policy, terms: Proposal, members: int) -> None:
    if isinstance(terms, Parameters):
        policy.check(terms, members)
        return
    policy.check_backend(terms.encryption.backend)
    policy.check_group("clients", len(terms.cohort), members)


def _releases(session: Session) -> Iterator[Finding]:
    """The server's opened sums cover clients that uploaded, and all parties agreed to open them."""
    server = session.server
    if server is None:
        return
    seen = Counter(one.event.round for one in server.of(Released))
    for released in server.of(Released):
        number = released.event.round
        if number >= len(session.terms.rounds):
            faults = iter(["it was not planned"])
        else:
            faults = chain(
                _size_faults(session.terms, released.event, seen[number]),
                _survivor_faults(session, server, released.event),
                _answer_faults(session.terms, server, released),
            )
        for fault in faults:
            yield released.finding(f"round {number}: {fault}")
    yield from _unsaid(session.terms, server)


def _size_faults(terms: Proposal, released: Released, times: int) -> Iterator[str]:
    """A sum is opened once and has the agreed length. times: how often it was opened."""
    if times > 1:
        yield f"it was opened {times} times"
    if isinstance(terms, Agreement) and terms.release is Release.WEIGHTS:
        return
    length = terms.rounds[released.round].length
    if released.values != length:
        yield f"expected a sum of {length} values, got {released.values}"


def _survivor_faults(session: Session, server: View, released: Released) -> Iterator[str]:
    """A sum covers clients whose uploads the server had, and whom it announced to every party."""
    terms, survivors = session.terms, released.survivors
    upload = "upload" if isinstance(terms, Parameters) else "encrypted upload"
    uploads = [one.event for one in server.received(upload) if one.event.frame.round == released.round]
    # An encrypted round may have been repeated: only the last attempt counts.
    last = max((one.frame.attempt or 0 for one in uploads), default=0)
    uploaded = {one.sender for one in uploads if (one.frame.attempt or 0) == last}
    # If masked vectors are also encrypted, a vector may be masked and then not encrypted.
    layered = isinstance(terms, Parameters) and terms.encrypted
    if not uploaded.issuperset(survivors) or (uploaded != set(survivors) and not layered):
        yield (
            f"the server reports a sum over {_names(session, survivors)}, but uploads came from "
            f"{_names(session, [one for one in uploaded if one is not None])}"
        )
    for view in session.parties.values():
        for one in view.received(*SURVIVORS, "check", "offer"):
            frame = one.event.frame
            if (frame.round, frame.attempt or 0) == (released.round, last) and frame.members != survivors:
                yield (
                    f"the server reports a sum over {_names(session, survivors)}, but {view.log.begun.party} was shown "
                    f"{_names(session, frame.members)} ({view.log.file}, line {one.line})"
                )


def _answer_faults(terms: Proposal, server: View, released: At[Released]) -> Iterator[str]:
    """A sum is opened only after enough of its clients have answered."""
    masked, number = isinstance(terms, Parameters), released.event.round
    questions, answer = (SURVIVORS, "reveal") if masked else (("check",), "tags")
    asked = max((one.line for one in server.sent(*questions) if one.event.frame.round == number), default=0)
    answers = {one.event.sender for one in server.received(answer) if asked < one.line < released.line}
    answers &= set(released.event.survivors)
    needed = terms.threshold if isinstance(terms, Parameters) else len(released.event.survivors)
    if len(answers) < needed:
        yield f"expected the answers of at least {needed} clients before it is opened, got {len(answers)}"


def _unsaid(terms: Proposal, server: View) -> Iterator[Finding]:
    """The server records the outcome of every round that clients answered for."""
    done = {one.event.round for one in server.of(Released)} | {one.event.round for one in server.of(Aborted)}
    final = "reveal" if isinstance(terms, Parameters) else "opened"
    for number, line in {one.event.frame.round: one.line for one in server.received(final)}.items():
        if number not in done:
            yield Finding(
                server.log.file, line, f"round {number} was answered for, and no line records its outcome"
            )


def _layers(session: Session, masks: Session | None) -> Iterator[Finding]:
    """If masked vectors are also encrypted, both sessions opened the same rounds over the same clients."""
    if masks is None or masks.server is None or session.server is None:
        return
    opened = {one.event.round: one.event.survivors for one in session.server.of(Released)}
    for one in masks.server.of(Released):
        if opened.get(one.event.round) != one.event.survivors:
            yield one.finding(
                f"round {one.event.round}: masks were removed from a sum that the key holders did not open for these clients"
            )


def _said(frame: Frame) -> str:
    at = f" of round {frame.round}" if frame.round is not None else ""
    return f"“{frame.message}”{at} ({frame.size:,} bytes)"


def _names(session: Session, indices: Sequence[int]) -> str:
    return ", ".join(map(session.name, sorted(indices))) or "no client"
