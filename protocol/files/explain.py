"""Explain a policy in words, for the person who is responsible for the data."""

from collections.abc import Callable
from dataclasses import dataclass

from secure_afl.crypto.hpke import Suite
from secure_afl.protocol.session import graph
from secure_afl.protocol.session.backend import ENCRYPTED, Backend
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import Profile
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.profile import Trust, Verify


@dataclass(frozen=True)
class Section:
    """A heading with its sentences."""

    title: str
    lines: tuple[str, ...]


FORMS = {
    Backend.MASK: "mask: under random masks that cancel only in the sum. The server sees the sum and no single client's part.",
    Backend.BFV_MASK: "bfv+mask: under masks as above, and encrypted. Server and key holders together see only the sum.",
    Backend.BFV: "bfv: encrypted, not masked. The key holders open the sum, exactly.",
    Backend.CKKS: "ckks: encrypted, not masked. The key holder opens the sum, or the trained weights, approximately.",
    Backend.PLAIN: "plain: in the clear. The server sees this client's own statistics.",
}
"""The meaning of each backend."""

_UNMASKED = (
    "{}: one client that helps the server is enough to read another client's upload, whatever 'corrupted' says; so "
    "are the key holders, if they help the server. Only for federations whose clients do not help the server."
)

# Each setting that is weaker than the default, and what it gives up.
DANGERS: tuple[tuple[Callable[[Policy], bool], str], ...] = (
    (
        lambda policy: Backend.PLAIN in policy.backends,
        "plain: the server is shown this client's own statistics. Nothing protects them.",
    ),
    (lambda policy: Backend.BFV in policy.backends, _UNMASKED.format("bfv")),
    (lambda policy: Backend.CKKS in policy.backends, _UNMASKED.format("ckks")),
    (
        lambda policy: Profile.SEMI_HONEST in policy.profiles,
        (
            "semi-honest: the server may choose sessions in which clients do not compare what they were shown. If it "
            "lies there, it can learn one client's statistics."
        ),
    ),
    (
        lambda policy: Suite.X25519 in policy.suites,
        "x25519: whoever records the messages today and has a quantum computer later can read this client's statistics.",
    ),
    (
        lambda policy: Verify.NONE in policy.verify and Profile.ACTIVE in policy.profiles,
        (
            "verify none: the server may choose sessions in which no client checks the opened sums. It could hand out "
            "another model than the one that follows from them, and nobody would see it."
        ),
    ),
    (
        lambda policy: policy.trusts_reports is Trust.ANY,
        (
            "trusts_reports any: a server that lies about earlier sums can make a later sum reveal single records of "
            "this client."
        ),
    ),
    (
        lambda policy: policy.trusts_reports is Trust.VERIFIED,
        (
            "trusts_reports verified: in regressions and learned layers one other client that lies about its own numbers can make "
            "a later sum reveal single records of this client. Where sums have tags (verify), a server that one client helps can, "
            "too."
        ),
    ),
    (
        lambda policy: policy.corrupted < Policy.corrupted,
        (
            f"corrupted below {Policy.corrupted}: fewer clients are assumed to help the server than the default "
            "assumes; survivors and thresholds have no margin for more."
        ),
    ),
)

_NEVER = (
    (
        "The sum itself. If few honest clients are in it, each of them can subtract its own part, and any sum reveals "
        "something about the records behind it."
    ),
    "Who takes part, when, and how much is sent.",
    "Wrong numbers that another client puts into the sum.",
    "This client's own machine, and code that others install on it.",
    "More colluding clients than 'corrupted' allows for. A party that registers many members counts as many clients.",
)


def warnings(policy: Policy) -> tuple[str, ...]:
    """The protections of the default that this policy gives up; empty if none."""
    return tuple(text for applies, text in DANGERS if applies(policy))


def explain(
    policy: Policy, clients: int | None = None, key_holders: int | None = None
) -> tuple[Section, ...]:
    """Explain what the policy allows and what it does not protect.

    clients: number of clients in the roster, at least 1; if omitted, numbers are fractions. key_holders: their number;
    None if unknown.
    """
    sections = [
        Section("What may leave this client", _leaving(policy, key_holders)),
        Section("Who sees a sum", _seeing(policy)),
        Section("Against which server it protects", _servers(policy)),
        Section("How many may collude with the server, and how many must remain", _numbers(policy, clients)),
    ]
    if clients is not None and clients >= policy.least_survivors(clients):
        sections.append(Section(f"Thresholds if all {clients} clients are invited", _set_up(policy, clients)))
    given_up = warnings(policy) or ("None: this policy protects all that the default policy protects.",)
    return (
        *sections,
        Section("Not protected, whatever a policy says", _NEVER),
        Section("Warnings: not protected under this policy", given_up),
    )


def _leaving(policy: Policy, key_holders: int | None) -> tuple[str, ...]:
    lines = [
        "Statistics for sums planned beforehand; each data set in one session only; never a record.",
        *(FORMS[backend] for backend in Backend if backend in policy.backends),
    ]
    if policy.guards_categories:
        lines.append(
            "Of tables with categories only sums with noise, or encrypted ones of which key holders release the weights alone."
        )
    if budget := policy.budget:
        lines.append(
            f"With noise in several sessions, until they have spent ε = {budget.epsilon:g} at δ = {budget.delta:g}."
        )
    if key_holders is not None and policy.backends.intersection(ENCRYPTED):
        if key_holders:
            lines.append(
                f"The roster names {_count(key_holders, 'key holder')}; all are needed to open a sum."
            )
        else:
            lines.append("The roster names no key holder, so nothing can leave encrypted.")
    return tuple(lines)


def _gives_sums(policy: Policy) -> bool:
    """Whether there can be sessions that give clients the sums."""
    masked = any(backend.masked for backend in Backend if backend in policy.backends)
    return masked and policy.checks_sums


def _seeing(policy: Policy) -> tuple[str, ...]:
    lines = ["The server, unless key holders keep the sum and give it only the weights."]
    if _gives_sums(policy):
        lines.append("Masked: every client in the sum, too. Each is given what it needs to check the sum.")
    else:
        lines.append("No client is given a sum.")
    return tuple(lines)


def _servers(policy: Policy) -> tuple[str, ...]:
    if policy.backends == {Backend.PLAIN}:
        return ("Against none: the server sees everything.",)
    lines = ["A server that follows the protocol and records all that it sees."]
    if Profile.ACTIVE not in policy.profiles:
        lines.append("Not a server that lies.")
    elif Profile.SEMI_HONEST in policy.profiles:
        lines.append(
            "A server that lies, but only in sessions of the active profile; and the server chooses the profile."
        )
    else:
        lines.append("A server that lies about who takes part, who dropped out, or what other parties said.")
    if Verify.NONE not in policy.verify and policy.profiles == {Profile.ACTIVE} and _gives_sums(policy):
        alone = Verify.TAGS in policy.verify
        lines.append(
            "A server that hands out another sum than it opened, or another model than follows from it, "
            f"{'if no client of the session helps it' if alone else 'even if clients of the session help it'}: this client "
            f"checks every masked sum, and takes no other model (verify {'tags' if alone else 'replay'})."
        )
    if Suite.X25519 not in policy.suites:
        lines.append("A server that keeps all messages until it has a quantum computer.")
    if Backend.PLAIN in policy.backends:
        lines.append("Against none of these if statistics leave in the clear (plain).")
    return tuple(lines)


def _numbers(policy: Policy, clients: int | None) -> tuple[str, ...]:
    share, honest = f"{100 * policy.corrupted:.4g}% of the roster", policy.minimum_honest
    if clients is None:
        lines = [
            f"{share}, rounded up to whole clients, may collude with the server.",
            f"A sum needs {honest} survivors more than may collude; otherwise this client contributes nothing.",
            f"{100 * policy.dropout:.4g}% of the clients may drop out.",
            "To see numbers and thresholds, give the number of clients.",
        ]
    else:
        colluders, least = policy.colluders(clients), policy.least_survivors(clients)
        lines = [
            f"{_count(colluders, 'client')} of {clients} may collude with the server ({share}).",
            f"A sum needs at least {least} survivors: {honest} honest ones beyond those that may collude.",
        ]
        if least > clients:
            lines.append(
                f"So no sum is possible with {_count(clients, 'client')}: every session will be refused."
            )
    if open_to_one := sorted(policy.backends & {Backend.BFV, Backend.CKKS}):
        lines.append(f"With {' and '.join(open_to_one)} no client may collude: see the warnings.")
    return tuple(lines)


def _set_up(policy: Policy, clients: int) -> tuple[str, ...]:
    """Thresholds and possible dropouts, by profile, and for backends without a threshold by backend."""
    lines = []
    if any(backend.masked for backend in Backend if backend in policy.backends):
        lines += [_threshold(policy, profile, clients) for profile in Profile if profile in policy.profiles]
    spare = clients - policy.least_survivors(clients)
    return (
        *lines,
        *(
            f"{name}: no threshold. {_dropouts(spare, clients)}"
            for name in Backend
            if name in policy.backends and not name.masked
        ),
    )


def _threshold(policy: Policy, profile: Profile, clients: int) -> str:
    """The session that our server sets up for the whole roster, or why it cannot."""
    least = policy.least_survivors(clients)
    try:
        near = graph.choose(clients, profile, corrupted=policy.colluders(clients), dropout=policy.dropout)
    except LocalProtocolError as error:
        return f"{profile.value}: no session can be set up: {error}."
    if near.degree == clients - 1:
        opened, spare = f"{near.threshold} of {clients} clients", clients - max(near.threshold, least)
    else:
        opened = f"{near.threshold} of each client and its {near.degree} neighbours (for one sum; several may need more)"
        spare = min(policy.dropouts(clients), clients - least)
    return f"{profile.value}: the threshold is {near.threshold}: {opened} must answer. {_dropouts(spare, clients)}"


def _dropouts(spare: int, clients: int) -> str:
    return f"Up to {spare} may drop out ({spare / clients:.0%}); if more do, there is no sum."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
