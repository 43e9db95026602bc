"""Where a party, or the server, stands: read from its files, which are left as they are."""

import datetime
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from secure_afl.crypto.errors import SecureAflError
from secure_afl.crypto.identity import Identity
from secure_afl.node import study as study_file
from secure_afl.node.progress import PROGRESS
from secure_afl.node.site import AUDIT, FAILURE, MODEL, REPORT, TABLE_MODEL, home, study_folders
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.events import (
    Agreed,
    Approved,
    Ended,
    Entry,
    Foreign,
    Released,
    Revoked,
    Sent,
    Twins,
)
from secure_afl.protocol.durable.store import snapshot
from secure_afl.protocol.files import keys, roster
from secure_afl.protocol.files.keys import is_server
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.roster import Roster, grouped
from secure_afl.protocol.transport import metrics

_SHOWN = 20  # of the last lines of a history
_EVERY = 2  # seconds after which a page is read again
_PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{every}">
<title>{title}</title><style>
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: #1d2530; }}
h2 {{ font-size: 1.1rem; margin: 1.6rem 0 .2rem; }} ul {{ margin: 0; padding-left: 1.2rem; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1>{body}<p>Read from {folder} at {now}; read again every {every} s.</p></body></html>
"""


@dataclass(frozen=True)
class Section:
    """A heading and lines of text."""

    title: str
    lines: tuple[str, ...]


def sections(path: Path) -> tuple[Section, ...]:
    """All of it, by study where there are several. Raises `FileError`, and `StoreError` for a `state.db` that cannot be read."""
    every = [Section("Party", tuple(_party(path)))]
    for one in study_folders(path):
        of = "" if one == path else f" {one.name}"
        looks = {"Study": _study, "Run": _run, "Results": _results, "Past runs": _past}
        every += [Section(f"{title}{of}", tuple(look(one))) for title, look in looks.items()]
        if one != path and is_server(home(one) / "identity.key"):  # else all studies have one ledger
            every.append(Section(f"Sessions{of}", tuple(_sessions(one))))
    every.append(Section("Sessions and data sets", tuple(_sessions(path))))
    every.append(Section("Audit log", tuple(_history(path))))
    return tuple(one for one in every if one.lines)


def page(path: Path) -> str:
    """The same as HTML that needs nothing else, and no script."""
    try:
        body = "".join(
            f"<h2>{escape(one.title)}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in one.lines)}</ul>"
            for one in sections(path)
        )
    except SecureAflError as error:
        body = f"<p>{escape(str(error))}</p>"
    now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"
    return _PAGE.format(every=_EVERY, title="secure-afl", body=body, folder=escape(str(path)), now=now)


class StatusServer(ThreadingHTTPServer):
    """Shows a folder's page on this machine alone, and at /metrics the counts of `SECURE_AFL_METRICS`; does nothing else. at: ADDRESS:PORT of loopback, port 0 for a free one.

    Raises `FileError` for another address, or one that is taken.
    """

    daemon_threads = True

    def __init__(self, path: Path, at: str) -> None:
        host, _, port = at.rpartition(":")
        try:
            address, number = ip_address(host), int(port)
        except ValueError:
            raise FileError(f"expected an address and a port as 127.0.0.1:8002, got {at!r}") from None
        if address.version != 4 or not address.is_loopback or not 0 <= number < 2**16:
            raise FileError(
                f"expected an address of this machine alone, as 127.0.0.1:8002, got {at!r}: the page says who takes part, "
                "and asks nobody for a password; from elsewhere, ssh -L reaches it"
            )
        self.page: Callable[[], str] = lambda: page(path)
        try:
            super().__init__((str(address), number), _Handler)
        except OSError as error:
            raise FileError(f"expected a free address {at}, got {error.strerror}") from None


class _Handler(BaseHTTPRequestHandler):
    server: StatusServer

    def do_GET(self) -> None:
        # A page of another site whose name leads to loopback (DNS rebinding) says its own name here.
        host = self.headers.get("Host", "").rpartition(":")[0]
        known = host in ("localhost", str(self.server.server_address[0]))
        data = self._found() if known else None
        if data is None:
            self.send_error(404 if known else 403)
            return
        self.send_response(200)
        for name, value in {
            "Content-Type": f"text/{'html' if self.path == '/' else 'plain'}; charset=utf-8",
            "Content-Length": str(len(data)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _found(self) -> bytes | None:
        """The page, or the counts that the node of this environment keeps for Prometheus."""
        if self.path == "/":
            return self.server.page().encode()
        counts = os.environ.get(metrics.VARIABLE)
        if self.path == "/metrics" and counts and Path(counts).is_file():
            return Path(counts).read_bytes()
        return None

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a page that is read every two seconds would fill the terminal."""


def failure(path: Path) -> str:
    """Why no model came of the server's last run, in one line."""
    try:
        return _why(json.loads((path / FAILURE).read_text()))
    except OSError:
        return "the run was stopped before it could write down why"


def _why(found: dict[str, Any]) -> str:
    silent = "; ".join(found["silences"])
    return f"{found['reason']}{f' (no answer: {silent})' if silent else ''}"


def _study(path: Path) -> Iterator[str]:
    yield f"study {grouped(study_file.read(path / 'study.toml').digest)}"
    for name, one in roster.read(path / "roster.toml").rosters().items():
        yield f"{name} {grouped(one.digest)}: {', '.join(member.name for member in one.members)}"


def _party(path: Path) -> Iterator[str]:
    key = path / "identity.key"
    if not key.exists():
        return
    server = keys.is_server(key)
    member, _ = keys.read_key(key, keys.service_passphrase, server=server)
    yield f"{member.name}, fingerprint {Roster((member,)).fingerprint}"
    if not server:
        yield f"node: {'running' if _runs(path) else 'not running'}"


def _run(path: Path) -> Iterator[str]:
    """The server's run that is under way, or the last one."""
    try:
        found = json.loads((path / PROGRESS).read_text())
    except (OSError, ValueError):
        return
    if found["over"]:
        yield f"the last run {found['over']}"
    else:
        left = found["since"] + found["deadline"] - time.time()
        ends = (
            f"ends in {left:.0f} s at the latest"
            if left > 0
            else f"was to end {-left:.0f} s ago: was the run stopped?"
        )
        yield f"phase {found['phase']}, which {ends}; {time.time() - found['began']:.0f} s since the run began"
        for name in found["asked"]:
            size = found["answered"].get(name)
            yield f"{name}: {'waited for' if size is None else f'answered with {size:,} bytes'}"
    if found["over"] == "failed":
        yield f"the last run learned no model: {failure(path)}"


def _past(path: Path) -> Iterator[str]:
    for run in sorted((path / "runs").glob("*"))[: -_SHOWN - 1 : -1]:
        if (run / REPORT).exists():
            report = json.loads((run / REPORT).read_text())
            seconds = sum(one["seconds"] for one in report["phases"])
            sizes = ", ".join(str(len(one)) for one in report["survivors"])
            yield f"{run.name}: a model from sums over {sizes} clients in {seconds:.0f} s, {run}"
        elif (run / FAILURE).exists():
            yield f"{run.name}: no model: {_why(json.loads((run / FAILURE).read_text()))}"
        else:  # a party's
            yield f"{run.name}: a model, {run}"


def _results(path: Path) -> Iterator[str]:
    for file in (MODEL, TABLE_MODEL, REPORT, FAILURE):
        if (path / file).exists():
            made = datetime.datetime.fromtimestamp((path / file).stat().st_mtime, datetime.UTC)
            yield f"{file}: of {made:%Y-%m-%d %H:%M} UTC"


def _sessions(path: Path) -> Iterator[str]:
    key, at = home(path) / "identity.key", path / "state.db"
    if not (key.exists() and at.exists()):
        return
    identity: Identity = keys.read_key(key, keys.service_passphrase, server=keys.is_server(key))[1]
    with snapshot(at, identity) as store:
        for name in store.open_sessions():
            yield f"under way: {name}"
        for data_set in store.ledger.data_sets():
            session, uploaded = store.ledger.used(data_set) or (b"", False)
            left = "a vector of it left" if uploaded else "nothing of it left"
            yield f"data set {data_set!r}: used in session {session_name(session)}, {left}"


def _history(path: Path) -> Iterator[str]:
    if (path / AUDIT).exists():
        said = [line for line in map(_said, read((path / AUDIT).read_bytes()).entries) if line]
        yield from said[-_SHOWN:]


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
        case Twins():
            what = f"two nodes had the identity of {event.party}"
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
