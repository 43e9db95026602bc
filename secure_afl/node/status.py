"""Where a party, or the server, stands: read from its files, which are left as they are."""

import datetime
import fcntl
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from secure_afl.crypto.identity import Identity
from secure_afl.node import study as study_file
from secure_afl.node.site import AUDIT, FAILURE, MODEL, REPORT, TABLE_MODEL
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.events import Agreed, Approved, Ended, Entry, Foreign, Released, Revoked, Sent
from secure_afl.protocol.durable.store import Store
from secure_afl.protocol.files import keys, roster
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.roster import Roster, grouped

_SHOWN = 20  # of the last lines of a history


def lines(path: Path) -> Iterator[str]:
    """One thing a line. Raises `FileError`, and `StoreError` for a `state.db` that cannot be read."""
    yield f"study {grouped(study_file.read(path / 'study.toml').digest)}"
    for name, one in roster.read(path / "roster.toml").rosters().items():
        yield f"{name} {grouped(one.digest)}"
    key = path / "identity.key"
    if key.exists():
        server = keys.is_server(key)
        member, identity = keys.read_key(key, keys.service_passphrase, server=server)
        yield f"{member.name}, fingerprint {Roster((member,)).fingerprint}"
        if not server:
            yield f"node: {'running' if _runs(path) else 'not running'}"
        yield from _sessions(path, identity)
    for file in (MODEL, TABLE_MODEL, REPORT, FAILURE):
        if (path / file).exists():
            made = datetime.datetime.fromtimestamp((path / file).stat().st_mtime, datetime.UTC)
            yield f"{file}: of {made:%Y-%m-%d %H:%M} UTC"
    if (path / FAILURE).exists():
        yield f"the last run learned no model: {failure(path)}"
    if (path / AUDIT).exists():
        said = [line for line in map(_said, read((path / AUDIT).read_bytes()).entries) if line]
        yield from said[-_SHOWN:]


def failure(path: Path) -> str:
    """Why no model came of the server's last run, in one line."""
    try:
        found = json.loads((path / FAILURE).read_text())
    except OSError:
        return "the run was stopped before it could write down why"
    silent = "; ".join(found["silences"])
    return f"{found['reason']}{f' (no answer: {silent})' if silent else ''}"


def _sessions(path: Path, identity: Identity) -> Iterator[str]:
    if not (path / "state.db").exists():
        return
    with closing(Store(path / "state.db", identity)) as store:
        for name in store.open_sessions():
            yield f"under way: {name}"
        for data_set in store.ledger.data_sets():
            session, uploaded = store.ledger.used(data_set) or (b"", False)
            left = "a vector of it left" if uploaded else "nothing of it left"
            yield f"data set {data_set!r}: used in session {session_name(session)}, {left}"


def _said(entry: Entry) -> str:
    """A line of the history; empty for what is not told."""
    event = entry.event
    match event:
        case Approved():
            what = f"{event.by} approved study {event.study.hex()[:16]}…: {event.reason}"
        case Revoked():
            what = f"{event.by} revoked study {event.study.hex()[:16]}…: {event.reason}"
        case Agreed():
            what = f"session {session_name(event.terms.session)} begun"
        case Ended():
            model = f"a model of {event.size:,} bytes came" if event.size else "no model came"
            what = f"session {session_name(event.session)} over: {model}"
        case Sent() if event.frame.message == "upload":
            what = f"a vector of {event.frame.size:,} bytes left"
        case Released():
            what = f"a sum of {len(event.survivors)} clients was opened"
        case Foreign():
            what = f"a message of another protocol was refused: {event.kind!r}"
        case _:
            return ""
    return f"{entry.time:%Y-%m-%d %H:%M} UTC: {what}"


def _runs(path: Path) -> bool:
    """Whether a node runs in this folder."""
    lock = path / "node.lock"
    if not lock.exists():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
