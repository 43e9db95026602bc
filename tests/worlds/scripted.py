"""Logs of sessions that nobody ran: what every party would have noted down, message by message.

They cost no cryptography but their signatures, and are easily changed into another story.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from msgspec import structs

from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.identity import Identity
from secure_afl.protocol.audit.check import Report, verify
from secure_afl.protocol.audit.events import (
    Agreed,
    AnyEvent,
    Begun,
    Closed,
    Frame,
    Planned,
    Proposal,
    Received,
    Released,
    Role,
    Sent,
)
from secure_afl.protocol.files.roster import Parties
from secure_afl.protocol.homomorphic.agreement import Agreement, Encryption, Release
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.parameters import Parameters, Profile, RoundSpec, SumPlan
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Member, Roster
from secure_afl.protocol.session.wire import VERSION
from worlds.audits import CLIENTS, PLAN, written
from worlds.encrypted import EVERY_BACKEND

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PRESENT = (0, 2, 3)


@dataclass
class Scripted:
    """A session, with "bfv+mask" two; nothing has happened yet. Line n of a log is written n − 1 seconds after START."""

    backend: str = "mask"
    plan: Sequence[SumPlan] = PLAN
    clients: Sequence[str] = CLIENTS
    holders: int = 1
    policy: Policy = EVERY_BACKEND
    cohort: Sequence[int] | None = None
    profile: Profile = Profile.ACTIVE
    release: Release = Release.SUM

    def __post_init__(self) -> None:
        key_holders = [f"key holder {number + 1}" for number in range(self.holders)]
        roles = dict.fromkeys(self.clients, Role.CLIENT) | dict.fromkeys(key_holders, Role.HOLDER)
        roles["server"] = Role.SERVER
        if self.backend == "mask":
            roles = {name: role for name, role in roles.items() if role is not Role.HOLDER}
        self.identities = {name: Identity.generate() for name in roles}
        self.names = [name for name in roles if name != "server"]  # by their numbers
        self.events: dict[str, list[AnyEvent]] = {
            name: [Begun(VERSION, name, role, self.identities[name].verify_key)]
            for name, role in roles.items()
        }
        self.roster = self._roster(self.clients)
        self.key_holders = None if self.backend == "mask" else self._roster(key_holders)
        self.parties = Parties(self.roster, self.key_holders)
        self.indices = tuple(self.cohort or range(len(self.clients)))
        self.masks: Parameters | None = None
        self.agreement: Agreement | None = None
        self._digests = count(1)
        agreed = None
        if self.key_holders:
            encryption = Encryption(Backend(self.backend), self.release)
            _, agreed = encryption.agreed(self.plan, len(self.clients), self.holders)
        if "mask" in self.backend:
            self.masks = self.parameters(agreed)
        if self.key_holders:
            masked = (self.masks.session, self.masks.transcript()) if self.masks else None
            self.agreement = Agreement.propose(
                encryption, self.roster, self.key_holders, self.plan, cohort=self.cohort, masked=masked
            )

    def parameters(self, rounds: Sequence[RoundSpec] | None = None) -> Parameters:
        """Of a masked session of these clients."""
        n = len(self.indices)
        return Parameters.propose(
            self.roster,
            self.plan,
            profile=self.profile,
            suite=Suite.X25519,
            degree=n - 1,
            threshold=graph.least_threshold(self.profile, n, n - 1),
            cohort=self.cohort,
            rounds=rounds,
        )

    def _roster(self, names: Sequence[str]) -> Roster:
        return Roster(tuple(Member(name, self.identities[name].verify_key) for name in names))

    # ---- what happens ----------------------------------------------------------------------------

    def add(self, party: str, *events: AnyEvent) -> None:
        """At the end of a log, before its closing entry."""
        log = self.events[party]
        end = len(log) - isinstance(log[-1], Closed)
        log[end:end] = events

    def agrees(self, terms: Proposal, *parties: str) -> None:
        holders = self.key_holders if isinstance(terms, Agreement) else None
        for party in parties:
            own = (tuple(map(Planned.of, self.plan)), self.policy) if party != "server" else ((), None)
            self.add(party, Agreed(terms, self.roster, holders, *own))

    def up(
        self,
        terms: Proposal,
        index: int,
        message: str,
        size: int,
        number: int | None = None,
        attempt: int | None = None,
        *,
        members: tuple[int, ...] = (),
        lost: bool = False,
    ) -> None:
        """A party's message to the server. number: of the round."""
        session = terms.transcript()
        frame = Frame(message, next(self._digests).to_bytes(32), size, number, attempt, members)
        self.add(self.names[index], Sent(session, frame))
        if not lost:
            self.add("server", Received(session, frame, index))

    def down(
        self,
        terms: Proposal,
        indices: Sequence[int],
        message: str,
        size: int,
        number: int | None = None,
        attempt: int | None = None,
        *,
        members: tuple[int, ...] = (),
    ) -> None:
        """One message of the server to several."""
        session = terms.transcript()
        frame = Frame(message, next(self._digests).to_bytes(32), size, number, attempt, members)
        self.add("server", Sent(session, frame, tuple(indices)))
        for index in indices:
            self.add(self.names[index], Received(session, frame))

    def begin(self) -> "Scripted":
        """Both sessions, or the one."""
        members = [self.names[index] for index in self.indices]
        if terms := self.masks:
            self.agrees(terms, "server", *members)
            self.down(terms, self.indices, "parameters", 159, members=self.indices)
            for index in self.indices:
                self.up(terms, index, "advertise", 100 + index)
            self.down(terms, self.indices, "directory", 500, members=self.indices)
            for index in self.indices:
                others = tuple(one for one in self.indices if one != index)
                self.up(terms, index, "shares", 1000 + index, members=others)
            for index in self.indices:
                self.up(terms, index, "confirm", 74)
        if self.agreement:
            key_holders = tuple(range(len(self.clients), len(self.names)))
            self.agrees(self.agreement, "server", *members, *(self.names[index] for index in key_holders))
            self.down(self.agreement, key_holders, "agreement", 189, members=self.indices)
            for index in key_holders:
                self.up(self.agreement, index, "key announcement", 148)
            self.down(self.agreement, self.indices, "invitation", 99, members=self.indices)
            for index in self.indices:
                self.up(self.agreement, index, "joined", 72)
        return self

    def sum(
        self, number: int, present: Sequence[int] = PRESENT, masked: Sequence[int] | None = None
    ) -> "Scripted":
        """A round that is opened. present: whose uploads arrive; masked: whose masked ones do, where those are more."""
        present, masked = tuple(present), tuple(masked or present)
        if self.masks:
            self.masked_uploads(number, masked)
        if self.agreement:
            asked = masked if self.masks else self.indices
            self.encrypted_uploads(number, number + 1, asked, present)
            self.opened(number, number + 1, present)
        if self.masks:
            self.unmasked(number, present)
        return self

    def masked_uploads(self, number: int, present: Sequence[int]) -> None:
        assert self.masks
        self.down(self.masks, self.indices, "sum request", 53, number, members=self.indices)
        for index in self.indices:
            self.up(self.masks, index, "upload", 103, number, lost=index not in present)

    def unmasked(self, number: int, present: tuple[int, ...]) -> None:
        """From the survivors' set to the sum."""
        terms = self.masks
        assert terms
        self.down(terms, present, "survivors", 50, number, members=present)
        if self.profile is Profile.ACTIVE:
            for index in present:
                self.up(terms, index, "consent", 140, number)
            self.down(terms, present, "consents", 250, number, members=present)
        for index in present:
            self.up(terms, index, "reveal", 222, number, members=self.indices)
        self.releases(terms, number, present)

    def encrypted_uploads(
        self, number: int, attempt: int, asked: Sequence[int], present: Collection[int]
    ) -> None:
        assert self.agreement
        self.down(
            self.agreement, asked, "encrypted request", 60, number, attempt=attempt, members=tuple(asked)
        )
        for index in asked:
            self.up(
                self.agreement,
                index,
                "encrypted upload",
                65_625,
                number,
                attempt=attempt,
                lost=index not in present,
            )

    def checked(self, number: int, attempt: int, present: tuple[int, ...], vouching: Sequence[int]) -> None:
        """The offer to key holders, and who of the contributors vouches for it."""
        terms = self.agreement
        assert terms
        key_holders = range(len(self.clients), len(self.names))
        self.down(terms, key_holders, "offer", 81, number, attempt=attempt, members=present)
        for key_holder in key_holders:
            self.up(terms, key_holder, "challenge", 175)
        self.down(terms, present, "check", 234, number, attempt=attempt, members=present)
        for index in present:
            self.up(terms, index, "tags", 124, lost=index not in vouching)

    def opened(self, number: int, attempt: int, present: tuple[int, ...]) -> None:
        """From the offer to the sum."""
        terms = self.agreement
        assert terms
        self.checked(number, attempt, present, present)
        key_holders = range(len(self.clients), len(self.names))
        self.down(terms, key_holders, "opening", 66_205, members=present)
        for key_holder in key_holders:
            self.up(terms, key_holder, "opened", 131, number)
        self.releases(terms, number, present)

    def releases(self, terms: Proposal, number: int, present: tuple[int, ...]) -> None:
        dropouts = tuple(index for index in self.indices if index not in present)
        values = self.plan[number].length if self.release is Release.SUM else 6
        self.add("server", Released(terms.transcript(), number, present, dropouts, values))

    def end(self) -> "Scripted":
        for log in self.events.values():
            log.append(Closed())
        return self

    # ---- another story ---------------------------------------------------------------------------

    def change(self, party: str, line: int, /, **fields: Any) -> None:
        """Other fields for the event on a line, or for its frame."""
        one: Any = self.events[party][line - 1]
        of_event = {name: fields.pop(name) for name in one.__struct_fields__ if name in fields}
        if fields:
            of_event["frame"] = structs.replace(one.frame, **fields)
        self.events[party][line - 1] = structs.replace(one, **of_event)

    def insert(self, party: str, line: int, event: AnyEvent | None = None) -> None:
        """One more event, on this line; by default what stands there, once more."""
        self.events[party].insert(line - 1, event or self.events[party][line - 1])

    def remove(self, party: str, *lines: int) -> None:
        self.events[party] = [one for line, one in enumerate(self.events[party], 1) if line not in lines]

    # ---- what the checker is given ---------------------------------------------------------------

    def logs(self, *parties: str) -> dict[str, bytes]:
        """By party; of all without any."""
        return {
            name: written(self.identities[name], self.events[name], START, timedelta(seconds=1))
            for name in parties or self.events
        }

    def report(self, *parties: str) -> Report:
        return verify(self.logs(*parties))


def begun_anew(**given: Any) -> Scripted:
    """Round 0 under BFV, of which hospital-1 uploads and then does not vouch; so the others encrypt again."""
    scripted = Scripted("bfv", **given).begin()
    scripted.encrypted_uploads(0, 1, scripted.indices, scripted.indices)
    scripted.checked(0, 1, scripted.indices, PRESENT)
    scripted.encrypted_uploads(0, 2, PRESENT, PRESENT)
    scripted.opened(0, 2, PRESENT)
    return scripted.end()


def honest(
    backend: str = "mask",
    present: Sequence[int] = PRESENT,
    masked: Sequence[int] | None = None,
    **given: Any,
) -> Scripted:
    """All planned sums; what others than those present upload is lost. masked: whose masked uploads arrive."""
    scripted = Scripted(backend, **given).begin()
    for number in range(len(scripted.plan)):
        scripted.sum(number, present, masked)
    return scripted.end()
