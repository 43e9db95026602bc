"""Tell what left each client, for a reader who knows no cryptography."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from secure_afl.protocol.audit.check import SURVIVORS, At, Report, Session, View
from secure_afl.protocol.audit.events import Aborted, Received, Refused, Released, Role, Sent, Taken, Withheld
from secure_afl.protocol.homomorphic.agreement import Agreement, Release
from secure_afl.protocol.session.parameters import Parameters, Profile
from secure_afl.protocol.session.profile import Verify

_FORMS = {  # by (masked, encrypted): the text for a table cell, and for a sentence
    (True, False): ("masked", "hidden by secret masks"),
    (False, True): ("encrypted", "encrypted"),
    (True, True): ("masked, encrypted", "hidden by secret masks and encrypted"),
}
_SHOWN = 12  # names in a sentence


@dataclass(frozen=True)
class Upload:
    """A vector that left a client. over: the clients of the opened sum; sentence: the whole story."""

    time: datetime
    statistic: str
    values: int
    size: int
    form: str
    over: str
    sentence: str


@dataclass(frozen=True)
class Account:
    """All that left one client in one session. besides: sentences on messages other than vectors."""

    client: str
    uploads: tuple[Upload, ...]
    besides: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """One session. facts: the agreed terms, as pairs of name and text; caution: the assumptions."""

    name: str
    facts: tuple[tuple[str, str], ...]
    accounts: tuple[Account, ...]
    caution: str


def stories(report: Report) -> tuple[Story, ...]:
    """One story per session. Masked vectors that travelled encrypted are part of the encrypted session's story."""
    sessions = {one.transcript: one for one in report.sessions}
    beneath = {one.terms.masks for one in report.sessions if isinstance(one.terms, Agreement)}
    told = []
    for session in report.sessions:
        if session.transcript not in beneath:
            masks = sessions.get(session.terms.masks) if isinstance(session.terms, Agreement) else session
            told.append(_story(session, masks))
    return tuple(told)


def _story(session: Session, masks: Session | None) -> Story:
    views = [view for _, view in sorted(session.parties.items()) if view.log.begun.role is Role.CLIENT]
    accounts = tuple(_account(session, masks, view) for view in views)
    return Story(session.number, tuple(_facts(session, masks)), accounts, _caution(session, masks))


def _facts(session: Session, masks: Session | None) -> Iterator[tuple[str, str]]:
    terms = session.terms
    views = [*session.parties.values(), *([session.server] if session.server else [])]
    entries = [one.entry for view in views for one in view.events]
    times = [one.time for one in (*entries, *(view.agreed.entry for view in views))]
    yield (
        "when",
        f"{min(times):%Y-%m-%d %H:%M:%S} to {max(times):%Y-%m-%d %H:%M:%S} UTC, by the parties' clocks",
    )
    yield "clients invited", names(session, terms.cohort)
    if session.holders:
        yield "key holders", ", ".join(one.name for one in session.holders.members)
    yield "vectors leave", _FORMS[_form(session)][1]
    if isinstance(terms, Agreement):
        yield "encryption", terms.lattice
        released = {Release.SUM: "the sum", Release.WEIGHTS: "only the model solved from the sum"}
        yield "given to the server", released[terms.release]
    if masks and isinstance(masks.terms, Parameters):
        profile = {Profile.ACTIVE: "may lie", Profile.SEMI_HONEST: "follows the protocol"}
        yield "assumed of the server", profile[masks.terms.profile]
        checked = {
            Verify.TAGS: "given to every client in the sum, which checks them",
            Verify.REPLAY: "made again by every client in the sum, from all uploads",
            Verify.NONE: "not given to clients, who believe the server",
        }
        yield "opened sums", checked[masks.terms.verify]
        yield "keys sealed with", masks.terms.suite.value
        yield "needed to open a sum", f"{masks.terms.threshold} clients"
    sums = [f"“{one.statistic}” ({one.length:,} numbers)" for one in terms.rounds]
    yield (
        "sums agreed on",
        ", ".join(sums[:_SHOWN]) + (f" and {len(sums) - _SHOWN} more" if sums[_SHOWN:] else ""),
    )
    plans = {view.agreed.event.plan for view in session.parties.values()} - {()}
    for blocks in dict.fromkeys(one.noise for plan in sorted(plans, key=str) for one in plan if one.noise):
        told = ", ".join(f"{deviation:.3g} on {length:,} numbers" for length, deviation in blocks if length)
        yield "noise of each client", f"drawn anew for each sum, standard deviation {told}"
    policies = {view.agreed.event.policy for view in session.parties.values()} - {None}
    least = {one.least_survivors(len(session.roster.members)) for one in policies if one is not None}
    if least:
        yield "fewest clients in a sum", f"{min(least)}, by the clients' own policies"


def _form(session: Session) -> tuple[bool, bool]:
    """Whether vectors are masked, and whether they are encrypted."""
    terms = session.terms
    return (True, False) if isinstance(terms, Parameters) else (bool(terms.masks), True)


def _caution(session: Session, masks: Session | None) -> str:
    terms = masks.terms if masks else session.terms
    if isinstance(terms, Agreement):
        if terms.masks:
            return (
                "The logs of the masked session were not given: this report does not say what its masks hide."
            )
        return "This holds as long as no client and no key holder helps the server against the others."
    n, t = len(terms.cohort), terms.threshold
    if terms.profile is Profile.ACTIVE:
        return f"This holds as long as fewer than {2 * t - n} of the {n} clients help the server against the others."
    return (
        f"This holds as long as the server follows the protocol, and fewer than {t} of a client's neighbours help it "
        "against that client."
    )


# ---- one client ----------------------------------------------------------------------------------


def _account(session: Session, masks: Session | None, view: View) -> Account:
    encrypted = isinstance(session.terms, Agreement)
    uploads = tuple(
        _upload(session, masks, view, one) for one in view.sent("encrypted upload" if encrypted else "upload")
    )
    below = masks.parties.get(view.index) if masks else None
    views = [view, *([below] if below and below is not view else [])]
    return Account(session.name(view.index), uploads, tuple(_besides(session, views)))


def _upload(session: Session, masks: Session | None, view: View, sent: At[Sent]) -> Upload:
    client, number, rounds = session.name(view.index), sent.event.frame.round, session.terms.rounds
    planned = rounds[number] if number is not None and number < len(rounds) else None
    statistic, values = (planned.statistic, planned.length) if planned else ("?", 0)
    form, words = _FORMS[_form(session)]
    *_, last = (
        one.event.frame.attempt
        for one in view.sent(sent.event.frame.message)
        if one.event.frame.round == number
    )
    if sent.event.frame.attempt != last:
        over, fate = "repeated", "the round was repeated, and this upload is in no sum"
    else:
        over, fate = _fate(session, masks or session, view, number)
    sentence = f"{client} sent one vector of {values:,} numbers (“{statistic}”), {words}; {fate}."
    return Upload(sent.entry.time, statistic, values, sent.event.frame.size, form, over, sentence)


def _fate(session: Session, opened: Session, view: View, number: int | None) -> tuple[str, str]:
    """What happened to a vector, for a table cell and for a sentence. opened: the session that opens the sums."""
    server = opened.server
    if server is None:
        shown = [
            one.event.frame.members
            for one in view.received(*SURVIVORS, "check")
            if one.event.frame.round == number
        ]
        if not shown:
            return "unknown", "the server's log was not given, so it is not known what happened to it"
        return (
            f"{len(shown[-1])} clients, by its own log",
            f"by its own log it helped to open a sum over {len(shown[-1])} clients ({names(session, shown[-1])})",
        )
    for one in server.of(Released):
        if one.event.round != number:
            continue
        survivors = one.event.survivors
        if view.index not in survivors:
            return "not in the sum", "it is in no sum and stays hidden"
        group = f"the sum over {len(survivors)} clients ({names(session, survivors)})"
        if session.holders is None or opened is not session:
            return f"{len(survivors)} clients", f"the server learned only {group}"
        key_holders = " and ".join(one.name for one in session.holders.members)
        if isinstance(session.terms, Agreement) and session.terms.release is Release.WEIGHTS:
            return (
                f"{len(survivors)} clients",
                f"{key_holders} opened only {group}, and gave the server only the model solved from it",
            )
        return f"{len(survivors)} clients", f"{key_holders} opened only {group}, and gave it to the server"
    if any(one.event.round in (number, None) for one in server.of(Aborted)):
        return "nothing was opened", "the round was abandoned and nothing of it was opened"
    return "unknown", "the server's log does not record that anything of it was opened"


def _besides(session: Session, views: Sequence[View]) -> Iterator[str]:
    """What else a client sent in a session and in the masked session beneath it."""
    client = session.name(views[0].index)

    def sent(*messages: str) -> list[At[Sent]]:
        return [one for view in views for one in view.sent(*messages)]

    begin = sum(one.event.frame.size for one in sent("advertise", "shares", "confirm", "joined"))
    holders = {index for one in sent("shares") for index in one.event.frame.members}
    if holders:
        yield (
            f"To begin, it sent public keys, and shares of its secret keys, each sealed to one of {len(holders)} other "
            f"clients: {begin:,} bytes."
        )
    elif begin:
        yield f"To begin, it sent public keys or confirmed that it takes part: {begin:,} bytes."
    for one in sent("confirm"):
        if one.event.frame.members:
            yield f"It could not open the shares that came from {names(session, one.event.frame.members)}."
    yield from _revealed(session, views)
    if consents := sent("consent"):
        yield f"{_times(consents)} it signed the list of clients in a sum, before it helped to open it."
    for word, some in (
        (
            "checked the opened sum against its tag and accepted it",
            [one for one in sent("verdict") if one.event.frame.accepted],
        ),
        (
            "refused an opened sum, which did not fit its tag or the uploads",
            [one for one in sent("verdict") if not one.event.frame.accepted],
        ),
    ):
        if some:
            yield f"{_times(some)} it {word}."
    if tags := sent("tags"):
        yield (
            f"{_times(tags)} it confirmed its own part of an encrypted sum, so that no different sum could be opened."
        )
    for withheld in (one for view in views for one in view.of(Withheld)):
        yield f"It was asked for a vector of round {withheld.event.round} and gave none ({withheld.event.kind})."
    if refused := [one for view in views for one in view.of(Refused)]:
        first = refused[0].event.reason or refused[0].event.kind
        yield f"{_times(refused)} it refused a message from the server; the first: {first}"
    for taken in dict.fromkeys(one.event for view in views for one in view.of(Taken)):
        if taken.unverified:
            yield f"It took the model as the server sent it, unverified: {taken.unverified}."
        else:
            yield f"It took the model that it computed from {_sums(taken)}, as the server's was the same."
    everything = [one.event.frame.size for view in views for one in view.of(Sent)]
    yield f"In all, {client} sent {sum(everything):,} bytes in {len(everything)} messages."


def _sums(taken: Taken) -> str:
    count, last = len(taken.sums), max(taken.sums, key=lambda one: one.round)
    of = "the sum that it had checked" if count == 1 else f"the {count} sums that it had checked"
    return f"{of}, the last one {last.digest.hex()[:16]}… over {len(last.survivors)} clients"


def _revealed(session: Session, views: Sequence[View]) -> Iterator[str]:
    """Key shares that a client gave, grouped by sum."""
    given: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for view in views:
        survivors: tuple[int, ...] = ()
        for one in view.events:
            if isinstance(one.event, Received) and one.event.frame.message in SURVIVORS:
                survivors = one.event.frame.members
            elif isinstance(one.event, Sent) and one.event.frame.message == "reveal":
                outside = tuple(index for index in one.event.frame.members if index not in survivors)
                given[len(one.event.frame.members) - len(outside), outside] += 1
    for (inside, outside), times in given.items():
        sums = "a sum" if times == 1 else f"each of {times} sums"
        rest = f", and one of {names(session, outside)}, not in it" if outside else ""
        yield (
            f"To open {sums} it gave one key share of each of {inside} clients in the sum{rest}; one share alone opens "
            "nothing."
        )


def _times(events: Sequence[object]) -> str:
    return "Once" if len(events) == 1 else f"{len(events)} times"


def names(session: Session, indices: Sequence[int]) -> str:
    """Names of parties, at most as many as fit into a sentence."""
    listed = [session.name(index) for index in indices]
    rest = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + rest
