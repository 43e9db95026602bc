"""A page for the file of a party's data-protection officer: what was analysed, on what ground, what left whom, who got the
result. It says nothing that `secure-afl audit verify` does not check, but for the project's own words, which it quotes.

Its texts are data: one TOML file a language in `words/`.
"""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from secure_afl.federation.project import Project
from secure_afl.federation.project import read as read_project
from secure_afl.node.site import DISCLOSURE, HELD_OUT, REPORT, Folder
from secure_afl.node.study import Study
from secure_afl.protocol.audit.check import SURVIVORS, Report, Session, verify
from secure_afl.protocol.audit.events import Approved, Released, Revoked, Taken
from secure_afl.protocol.audit.log import kept
from secure_afl.protocol.files import keys, whole
from secure_afl.protocol.homomorphic.agreement import Release
from secure_afl.protocol.session.errors import FileError
from secure_afl.protocol.session.roster import grouped
from secure_afl.protocol.transport.endpoint import Terms
from secure_afl.tables.codebook import LEAST_ROWS

_WORDS = Path(__file__).parent / "words"
LANGUAGES = tuple(sorted(path.stem for path in _WORDS.glob("*.toml")))


@dataclass(frozen=True)
class Part:
    """A section of the page. facts: pairs of a label and a text; table: a heading line and rows, or nothing."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    table: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Page:
    """All of it. verdict: "holds", "missing", "fails" or "empty", and its text."""

    language: str
    title: str
    intro: str
    verdict: tuple[str, str]
    parts: tuple[Part, ...]


@cache
def words(language: str) -> dict[str, Any]:
    """The texts of a language of `LANGUAGES`. Raises `FileError` for another."""
    if language not in LANGUAGES:
        raise FileError(f"expected a language out of {', '.join(LANGUAGES)}, got {language!r}")
    return tomllib.loads((_WORDS / f"{language}.toml").read_text(encoding="utf-8"))


def band(number: int) -> tuple[int, int]:
    """A range that a number is in, from the row 0, 1 to 9, 10 to 19, 20 to 49, 50 to 99, 100 to 199, …"""
    if number < 10:
        return (min(number, 1), 9 if number else 0)
    low = 10 ** (len(str(number)) - 1)
    first = number // low
    start = next(one for one in (5, 2, 1) if one <= first)
    return start * low, {1: 2, 2: 5, 5: 10}[start] * low - 1


def code_digest() -> str:
    """SHA-256 of the installed package's Python files, with their names; hexadecimal."""
    root = Path(__file__).resolve().parents[1]
    state = hashlib.sha256()
    found: dict[str, Path] = {}
    for folder, _, files in os.walk(root, followlinks=True):
        at = Path(folder).relative_to(root)
        if "apps" not in at.parts and "__pycache__" not in at.parts:
            found |= {(at / name).as_posix(): Path(folder) / name for name in files if name.endswith(".py")}
    for name, path in sorted(found.items()):
        data = path.read_bytes()
        state.update(f"{name} {len(data)}\n".encode() + data)
    return state.hexdigest()


def record(path: Path, logs: Mapping[str, bytes], language: str = "en") -> Page:
    """The page of a party's folder, or the server's. logs: audit logs by file name, the more the better.

    Raises `FileError` for files of the folder that cannot be read.
    """
    said, folder = words(language), Folder(path)
    terms, study = folder.terms()
    at = folder.home / "project.toml"
    project = read_project(at) if at.exists() else None
    report = verify(logs, terms.parties, kept(map(Path, logs)))
    digests = {one.digest for one in terms.parties.rosters().values()}
    sessions = [one for one in report.sessions if one.roster.digest in digests]
    key = folder.home / "identity.key"
    party = keys.read_key(key, keys.service_passphrase, server=keys.is_server(key))[0].name
    titles = said["sections"]
    return Page(
        language,
        said["title"],
        said["intro"].format(party=party),
        _verdict(report, sessions, said["verdict"]),
        (
            Part(titles["project"], tuple(_project(project, study, said))),
            Part(titles["study"], tuple(_study(folder, study, party, said))),
            Part(
                titles["protection"],
                (*_protection(terms, study, sessions, party, said), *_exposed(path, said)),
            ),
            Part(titles["parties"], table=_parties(terms, sessions, said)),
            Part(titles["decisions"], table=_decisions(report, study, said)),
            Part(titles["technical"], tuple(_technical(terms, study, said["labels"]))),
        ),
    )


def _verdict(report: Report, sessions: list[Session], said: Mapping[str, str]) -> tuple[str, str]:
    if report.findings:
        return "fails", said["fails"].format(count=len(report.findings))
    if not sessions:
        return "empty", said["empty"]
    if report.missing:
        return "missing", said["missing"].format(names=", ".join(report.missing))
    return "holds", said["holds"]


def _project(project: Project | None, study: Study, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels, legal = said["labels"], project.legal if project else None
    found = {
        "name": project.name if project else "",
        "purpose": study.purpose,
        "controller": legal.controller if legal else "",
        "basis": legal.basis if legal else "",
        "retention": legal.retention if legal else "",
        "contact": project.contact if project else "",
    }
    for name, text in found.items():
        yield labels[name], text or said["unknown"]


def _study(folder: Folder, study: Study, party: str, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels, sentences = said["labels"], said["sentences"]
    classes = f": {', '.join(study.classes)}" if study.classes else ""
    yield labels["columns"], ", ".join(study.columns)
    yield labels["label"], f"{study.label}{classes}"
    yield labels["most_rows"], sentences["most_rows"].format(number=f"{study.max_rows:,}")
    if study.tests:
        yield labels["held_out"], _held_out(folder, study, sentences)
    if not (folder.path / "data.toml").exists():
        return
    yield labels["data_set"].format(party=party), folder.data_set()
    try:
        low, high = band(len(folder.data(study)[0]))
        rows = sentences["rows"].format(low=f"{low:,}", high=f"{high:,}")
    except FileError as error:  # of a table that has gone since; its text quotes no cell
        rows = sentences["no_rows"].format(reason=error)
    yield labels["rows"].format(party=party), rows


def _held_out(folder: Folder, study: Study, sentences: Mapping[str, str]) -> str:
    said = sentences["held_out"].format(
        part=f"{study.held_out:.0%}" if study.held_out else f"({study.codebook and study.codebook.held_out})"
    )
    if not (folder.path / HELD_OUT).exists():
        return said
    found = json.loads((folder.path / HELD_OUT).read_text(encoding="utf-8"))
    names = ("accuracy", "majority", "balanced_accuracy", "auc", "brier", "rmse", "mae", "guess_rmse", "r2")
    figures = [f"{sentences[name]} {found[name]:.3g}" for name in names if found.get(name) is not None]
    shown = sentences["figures"].format(rows=f"{found['rows']:,}", figures=", ".join(figures))
    return f"{said} {shown}"


def _protection(
    terms: Terms, study: Study, sessions: list[Session], party: str, said: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    labels, sentences = said["labels"], said["sentences"]
    clients = len(terms.parties.clients.members)
    numbers = sum(plan.length for plan in terms.plan)
    size = sum(plan.spec(clients).payload_bytes for plan in terms.plan)
    yield labels["left"], sentences["left"].format(numbers=f"{numbers:,}", size=f"{size:,}")
    form = sentences[study.backend.value.replace("+", "-")]
    if study.encryption and study.encryption.release is Release.WEIGHTS:
        form = f"{form} {sentences['weights_only']}"
    yield labels["form"], form
    noise = sentences["no_noise"]
    if study.privacy:
        noise = sentences["noise"].format(
            epsilon=f"{study.privacy.epsilon:g}", delta=f"{study.privacy.delta:g}"
        )
    yield labels["noise"], noise
    least = max([terms.policy.least_survivors(clients), *(plan.survivors for plan in terms.plan)])
    yield labels["fewest"], sentences["fewest"].format(number=least, party=party)
    for session in sessions:
        for opened in session.server.of(Released) if session.server else ():
            count = len(opened.event.survivors)
            yield labels["session"], sentences["session"].format(name=session.number, count=count)
        yield from _checked(session, said)


def _checked(session: Session, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Which parties computed the model from totals that they had checked, and which took it as the server sent it."""
    label, sentences = said["labels"]["checked"], said["sentences"]
    sums: dict[str, list[str]] = {}  # names by digest
    for view in session.parties.values():
        for one in view.of(Taken):
            last = max(one.event.sums, key=lambda of: of.round, default=None)
            sums.setdefault(last.digest.hex()[:16] if last else "", []).append(view.log.begun.party)
    for digest, names in sums.items():
        key = "checked" if digest else "unchecked"
        yield label, sentences[key].format(names=", ".join(names), digest=digest)


def _exposed(path: Path, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The smallest cell of the last opened sum and what to be warned of: at a party of the sum that it checked.

    Raises `FileError` for a file that is not as the server or the party writes it.
    """
    report = path / (REPORT if (path / REPORT).exists() else DISCLOSURE)
    if not report.exists():
        return
    try:
        found = json.loads(whole.read_text(report))
        if report.name == REPORT:
            found = found.get("disclosure")
        if found is None:
            return
        cell, rows, pooled, columns = (
            found[name] for name in ("smallest_cell", "smallest_cell_rows", "pooled_rows", "columns")
        )
        few, thin = rows < LEAST_ROWS, pooled <= columns
    except (ValueError, AttributeError, KeyError, TypeError):
        raise FileError(
            f"{report}: expected the smallest cell of a run, as the server or the node writes it"
        ) from None
    labels, sentences = said["labels"], said["sentences"]
    yield labels["smallest"], sentences["smallest"].format(cell=cell, rows=rows, pooled=pooled)
    for applies, name in ((few, "few"), (thin, "thin")):
        if applies:
            yield labels["warning"], sentences[name].format(least=LEAST_ROWS)


def _parties(terms: Terms, sessions: list[Session], said: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    labels, sentences = said["labels"], said["sentences"]
    rows = [tuple(labels[name] for name in ("party", "role", "contributed", "receives"))]
    for index, member in enumerate(terms.parties.clients.members):
        given = {_contributed(session, index) for session in sessions}
        contributed = (
            said["yes"] if True in given else said["open"] if None in given or not given else said["no"]
        )
        rows.append((member.name, sentences["client"], contributed, said["yes"]))
    holders = terms.parties.key_holders.members if terms.parties.key_holders else ()
    rows += [(member.name, sentences["holder"], said["no"], said["no"]) for member in holders]
    rows.append((sentences["server"].capitalize(), sentences["server"], said["no"], said["yes"]))
    return tuple(rows)


def _contributed(session: Session, index: int) -> bool | None:
    """Whether a client is in a sum that was opened, by the server's log or its own; None if neither is there."""
    if session.server:
        return any(index in one.event.survivors for one in session.server.of(Released))
    view = session.parties.get(index)
    if view is None:
        return None
    return any(index in one.event.frame.members for one in view.received(*SURVIVORS, "check"))


def _decisions(report: Report, study: Study, said: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    labels, sentences = said["labels"], said["sentences"]
    rows = [tuple(labels[name] for name in ("party", "by", "decision", "reason", "when"))]
    for log in report.logs:
        for entry in log.chain.entries:
            event = entry.event
            if isinstance(event, Approved | Revoked) and event.study == study.digest:
                decision = sentences["approved" if isinstance(event, Approved) else "revoked"]
                when = f"{entry.time:%Y-%m-%d %H:%M}"
                rows.append((log.begun.party, event.by, decision, event.reason, when))
    return tuple(rows)


def _technical(terms: Terms, study: Study, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield labels["study_digest"], grouped(study.digest)
    for name, one in terms.parties.rosters().items():
        yield f"{labels['roster_digest']} ({name})", grouped(one.digest)
    with suppress(ModuleNotFoundError):
        yield labels["program"], f"secure-afl {version('secure-afl')}"
    yield labels["code_digest"], code_digest()
