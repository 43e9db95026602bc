"""What would keep a party, or the server, from a session: found beforehand, each fault with its remedy.

Nothing is written and nothing of the rows leaves. The node need not run; if it does, it is not disturbed.
"""

import datetime
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path

import numpy as np
from cryptography import x509

from secure_afl.analytic.privacy import composed
from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.hpke import Suite
from secure_afl.node import held_out
from secure_afl.node.changes import Prepared
from secure_afl.node.site import AUDIT, Folder, check_name, home
from secure_afl.node.study import Rows, Study
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.log import Memory
from secure_afl.protocol.durable.store import Store, snapshot
from secure_afl.protocol.files import keys, roster, whole
from secure_afl.protocol.masking import tags
from secure_afl.protocol.session.errors import FileError, PolicyError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.parameters import (
    Profile,
    RoundSpec,
    spending,
)
from secure_afl.protocol.session.profile import Verify
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.transport.endpoint import Terms, check_remembers
from secure_afl.sums.aggregation import SessionSettings, proposed

_SOON = datetime.timedelta(days=14)  # before a certificate's end
_CLOCKS = 300.0  # seconds that Flower lets two clocks differ
_TIMEOUT = 10.0  # seconds for the server to answer


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. said: what was found; fault: whether it keeps the party from a session; notes: lines for the
    operator alone, which may quote a cell.
    """

    what: str
    said: str
    fault: bool = False
    notes: tuple[str, ...] = ()


def looked_at(path: Path) -> Iterator[Finding]:
    """Everything, in an order in which a fault explains those after it."""
    folder = Folder(path)
    key = _tried("identity", lambda: _identity(path))
    yield key
    agreed = _tried("roster, policy and study", lambda: _digests(*folder.terms()))
    yield agreed
    if key.fault or agreed.fault:
        return
    terms, study = folder.terms()
    if keys.is_server(home(path) / "identity.key"):
        yield _tried("plan", lambda: _plan(terms))
        yield _tried("sessions", lambda: _sessions(path))
        yield _tried("SuperLink", lambda: _server(path))
        return
    membership = _tried("roster", lambda: _membership(path, terms))
    yield membership
    client = not membership.fault and _is_client(path, terms)
    yield _tried("plan", lambda: _plan(terms, client=client))
    if client:
        prepared = cache(lambda: folder.prepared(study, terms.parties.clients, "this client"))
        yield _tried("data", lambda: _data(folder, study, prepared))
        named = (lambda: prepared().contribution[1]) if study.continues else folder.data_set
        yield _tried("ledger", lambda: _ledger(folder, terms, named))
    yield _tried("sessions", lambda: _sessions(path))
    yield _tried("approval", lambda: _approval(folder, terms))
    yield _tried("server", lambda: _reached(path))


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except (SecureAflError, OSError) as error:
        return Finding(what, str(error), True, tuple(getattr(error, "__notes__", ())))


def _identity(path: Path) -> str:
    key = home(path) / "identity.key"
    member, _ = keys.read_key(key, keys.service_passphrase, server=keys.is_server(key))
    return f"{member.name}, fingerprint {Roster((member,)).fingerprint}"


def _digests(terms: Terms, study: Study) -> str:
    rosters = ", ".join(f"{name} {one.digest.hex()[:16]}…" for name, one in terms.parties.rosters().items())
    return f"study {study.digest.hex()[:16]}…; {rosters}: the same at every party"


def _member(path: Path, terms: Terms) -> int:
    member, identity = keys.read_key(home(path) / "identity.key", keys.service_passphrase)
    everybody = [one.verify_key for one in terms.parties.everybody]
    if identity.verify_key not in everybody:
        raise FileError(
            f"{path / 'roster.toml'}: expected {member.name} with its present key in the roster, got none: compare "
            "fingerprints with whoever made it"
        )
    return everybody.index(identity.verify_key)


def _is_client(path: Path, terms: Terms) -> bool:
    return _member(path, terms) < len(terms.parties.clients.members)


def _membership(path: Path, terms: Terms) -> str:
    index, clients = _member(path, terms), len(terms.parties.clients.members)
    name = terms.parties.everybody[index].name
    return f"{name} is client {index + 1} of {clients}" if index < clients else f"{name} is a key holder"


def _plan(terms: Terms, *, client: bool = False) -> str:
    """Whether this policy bears the study, and a client's machine its sums. Raises `PolicyError`, `CryptoError`."""
    policy, clients = terms.policy, terms.parties.clients
    policy.check_backend(terms.backend)
    profile = Profile.ACTIVE if Profile.ACTIVE in policy.profiles else Profile.SEMI_HONEST
    verify = Verify.NONE
    if terms.backend.masked:
        verify = policy.proposed_verify(profile, encrypted=terms.backend.encrypted)
    policy.check_plan(terms.plan, profile, verify)
    if terms.backend.masked:
        suite = next(one for one in Suite if one in policy.suites)
        found = proposed(clients, terms.plan, SessionSettings(policy, profile, suite), _agreed(terms))
        if client and found.verify is Verify.TAGS:
            tags.check_allowed()
    least = policy.least_survivors(len(clients.members))
    if len(clients.members) < least:
        raise PolicyError(
            f"the policy asks for at least {least} clients in a sum, and the roster has {len(clients.members)}"
        )
    return f"the policy allows {terms.backend.value} and {len(terms.plan)} sums over at least {least} clients"


def _agreed(terms: Terms) -> Sequence[RoundSpec] | None:
    if terms.encryption is None or terms.parties.key_holders is None:
        return None
    sizes = (len(terms.parties.clients.members), len(terms.parties.key_holders.members))
    return terms.encryption.agreed(terms.plan, *sizes)[1]


def _data(folder: Folder, study: Study, prepared: Callable[[], Prepared]) -> str:
    """prepared: what the site gives to a study that continues a session."""
    try:
        if study.continues:
            _, name = prepared().contribution
            return (
                f"the table has the rows that are in session {study.continues[:8]}; this one gives {name!r}"
            )
        rows = folder.data(study)
        number = int(
            study.counts is not None
        )  # the first sum of the rows themselves; any counts before it do
        study.vector(number, rows, "this client", [np.ones(shape) for shape in study.shapes()[:number]])
    except ValueError as error:
        raise FileError(str(error)) from None
    return f"{len(rows.X):,} rows of {rows.name!r} fit the study{_controlled(study, rows)}"


def _controlled(study: Study, rows: Rows) -> str:
    """What disclosure control does to the rows, for their owner."""
    out = int(held_out.chosen(study, len(rows.X), rows.marks).sum())
    said = f"; {out:,} of them are held out of the model" if out else ""
    if study.least_rows == 1:
        return said
    found = study.controlled(rows)
    return (
        f"{said}; least_rows {study.least_rows}: {found.merges} rare levels go out as other levels ({found.values:,} values), "
        f"{len(rows.X) - out - len(found.kept)} rows of rare classes stay here"
    )


def _ledger(folder: Folder, terms: Terms, named: Callable[[], str]) -> str:
    """named: gives the ledger's name. Raises `FileError` for a data set that is spent, `PolicyError` for one whose budget is."""
    name, used = named(), None
    if folder.state.exists():
        with _store(folder.path) as store:
            check_name(name, store)
            used = store.ledger.used(name)
            if used and store.open_sessions():
                return f"{name!r} is in use by session {session_name(used[0])}, which is under way"
            spends, budget = spending(terms.plan), terms.policy.budget
            if used and spends and budget and used[0] in store.ledger.spent(name):
                store.ledger.compose = composed
                store.ledger.check(name, b"", spends, budget)
                sessions = len(store.ledger.spent(name))
                return (
                    f"the budget of {name!r} bears another session with this noise, after {sessions} of them"
                )
    if used:
        raise FileError(
            f"{name!r} was used in session {session_name(used[0])}: other rows have another name in data.toml; "
            "`secure-afl ledger renew` says what using the same rows again may expose"
        )
    return f"{name!r} is not used yet"


def _sessions(path: Path) -> str:
    """Raises `FileError` and `StoreError` for a `state.db` that knows less than the audit log."""
    memory = Memory()
    if (home(path) / AUDIT).exists() and not keys.is_server(home(path) / "identity.key"):
        for entry in read((home(path) / AUDIT).read_bytes()).entries:
            memory.take(entry.event)
    if not (at := Folder(path).state).exists():
        if memory.joined:
            raise FileError(
                f"{at}: expected the file of {len(memory.joined)} sessions that the audit log tells of, found "
                "none: bring it back, or begin anew without it (secure-afl ledger begin-anew)"
            )
        return "none was begun"
    with _store(path) as store:
        names = store.open_sessions()
        check_remembers(store, memory)
    return f"under way: {', '.join(names)}" if names else "none is under way"


def _store(path: Path) -> AbstractContextManager[Store]:
    key = home(path) / "identity.key"
    identity = keys.read_key(key, keys.service_passphrase, server=keys.is_server(key))[1]
    return snapshot(Folder(path).state, identity)


def _approval(folder: Folder, terms: Terms) -> str:
    found = folder.approval()
    rosters = tuple(one.digest for one in terms.parties.rosters().values())
    if found is None or found.rosters != rosters:
        raise PolicyError(
            f"the study is not approved here{' with this roster' if found else ''}: read `secure-afl study show`, then "
            "decide with `secure-afl study approve`"
        )
    return f"approved by {found.by}: {found.reason}"


def _reached(path: Path) -> str:
    """The way to the server's public door, its certificate and its clock. Raises `FileError`."""
    from secure_afl.node.node import node_key, settings

    at = home(path)
    found = settings(at)
    node_key(at / found.key)
    host, _, port = found.superlink.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    whole.read(at / found.authority)
    trusted = ssl.create_default_context(cafile=str(at / found.authority))
    try:
        with (
            socket.create_connection((host, int(port)), _TIMEOUT) as plain,
            trusted.wrap_socket(plain, server_hostname=host) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
            secured.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            head = secured.recv(4096).decode("latin-1")
    except ssl.SSLCertVerificationError as error:
        raise FileError(
            f"{found.superlink} shows a certificate that {at / found.authority} does not vouch for, or not for this "
            f"name or day ({error.verify_message}): compare the file, and this machine's clock, with the server's"
        ) from None
    except OSError as error:
        raise FileError(
            f"nobody answers at {found.superlink} ({error}): is the SuperLink running, and the way to it open?"
        ) from None
    assert shown is not None  # or it would not be trusted
    ends = x509.load_der_x509_certificate(shown).not_valid_after_utc
    return f"{found.superlink} answers, with a certificate until {ends:%Y-%m-%d}{_late(ends)}{_clock(head)}"


def _late(ends: datetime.datetime) -> str:
    left = ends - datetime.datetime.now(datetime.UTC)
    return f", in {left.days} days: have it renewed" if left < _SOON else ""


def _clock(head: str) -> str:
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "date":
            apart = time.time() - parsedate_to_datetime(value.strip()).timestamp()
            if abs(apart) > _CLOCKS:
                raise FileError(
                    f"this machine's clock is {apart:.0f} s {'ahead of' if apart > 0 else 'behind'} the server's: Flower "
                    f"bears {_CLOCKS:.0f} s; set the clock"
                )
            return f"; clocks differ by {abs(apart):.0f} s"
    return ""


def _server(path: Path) -> str:
    from secure_afl.node.server import settings
    from secure_afl.protocol.transport.flower.superlink import node_keys

    at = home(path)
    found = settings(at)
    certificate = x509.load_pem_x509_certificate(whole.read(at / found.certificate))
    ends = certificate.not_valid_after_utc
    if ends < datetime.datetime.now(datetime.UTC):
        raise FileError(f"{at / found.certificate}: expired on {ends:%Y-%m-%d}: have it renewed")
    whole.read(at / found.key)
    nodes, parties = node_keys(at / "nodes"), roster.read(path / "roster.toml").everybody
    if len(nodes) < len(parties):
        raise FileError(
            f"{at / 'nodes'}: expected the public node keys of {len(parties)} parties, got {len(nodes)}"
        )
    return (
        f"nodes at {found.public}, operator at {found.private}, {len(nodes)} nodes may connect, certificate until "
        f"{ends:%Y-%m-%d}{_late(ends)}"
    )
