"""A party's folder, and what its node does with it.

    identity.key    its identity; see docs/keys-and-policy.md for these three
    roster.toml     who takes part
    policy.toml     what it insists on
    study.toml      what is learned; see `secure_afl.node.study`
    data.toml       clients: `table` and `name` of the data set, as its owner calls it
    state.db        made by the node: its ledger and its sessions
    audit.jsonl     made by the node: its audit log; evidence/: sums that it made again itself, with verify = ["replay"]
    model.npz       made by the node: what was learned; personal.npz: with a head of the site's own
    kept.sum        made by the node and the server, where the study says so: see `secure_afl.node.changes`
    rows.json       made by the node: the digest of the rows in the first sum of a session
    held_out.json   how good the model is on held-out rows, where the study has such; of a party, by the sum that it checked
    disclosure.json made by the node: the smallest cell of the sum that it checked; the server's is in its report
    report.json     made by the server: what a run cost, or failure.json: why no model came of it
    progress.json   made by the server: where a run is; runs/: what each run left
    *.previous.*    of an earlier session, put aside when the next one began

A party of several studies has one folder for each in `studies/`, with roster, study, data and what was learned, and a policy
if it is another one; identity, ledger and audit log are above, once: so no data set serves two studies. The server has
its identity and audit log above, and a `state.db` for each study.

Nothing here comes from the server but the model; where sums are checked, a party keeps the one that it computes from them
itself, if the server's is the same.
"""

import filecmp
import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.analytic.privacy import composed
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.identity import Identity
from secure_afl.errors import DataError
from secure_afl.models.change import Labels as Said
from secure_afl.node import changes, held_out, samples
from secure_afl.node import study as study_file
from secure_afl.node.changes import Prepared
from secure_afl.node.progress import keep_run
from secure_afl.node.study import Floats, NetworkStudy, Rows, Study
from secure_afl.protocol.audit.chain import read
from secure_afl.protocol.audit.events import Approved, Contributed, Forgotten, Renewed, Revoked, Role
from secure_afl.protocol.audit.log import AuditLog, Known, approvals, commitment, revocations, revoke_at_once
from secure_afl.protocol.durable.store import Store, snapshot
from secure_afl.protocol.files import keys, roster, whole
from secure_afl.protocol.files import policy as policy_file
from secure_afl.protocol.homomorphic.agreement import Release
from secure_afl.protocol.session.errors import AuditError, FileError, LocalProtocolError, PolicyError, visible
from secure_afl.protocol.session.ledger import Budget, session_name
from secure_afl.protocol.session.parameters import SessionSums, SumPlan, SumWanted, Values
from secure_afl.protocol.session.roster import Member, Roster, grouped
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.protocol.transport.endpoint import Endpoint, Terms
from secure_afl.protocol.transport.events import NotPersonal
from secure_afl.protocol.transport.logs import tell
from secure_afl.tables.faults import TableError, refuse
from secure_afl.tables.form import POSTGRES, Form

if TYPE_CHECKING:
    from secure_afl.tables.cells import Cells
    from secure_afl.tables.model import Model

MODEL, PERSONAL, REPORT, AUDIT = "model.npz", "personal.npz", "report.json", "audit.jsonl"
FAILURE, HELD_OUT, ROWS, DISCLOSURE = "failure.json", "held_out.json", "rows.json", "disclosure.json"
_STUDY = "study"  # what the digest is called among the arrays of a model
ALL = "all"
"""Names all studies that are approved at a party."""
TABLE_MODEL = "model.safetensors"
"""The model file of a study with a codebook; see `secure_afl.tables.model`."""
STUDIES = "studies"
_PATIENCE = 30.0  # seconds that a node has to close its files for an operator's decision


class Ready(NamedTuple):
    """A vector that was computed beforehand. data_set: the name of its rows; rows: their digest; prepared: where the study
    keeps its sum, what the vector is of.
    """

    vector: Values
    data_set: str
    rows: str
    prepared: Prepared | None = None

    def __repr__(self) -> str:  # no value of the vector
        return f"{type(self).__name__}({len(self.vector)} values of {self.data_set!r})"


def digest_of(rows: Rows) -> str:
    """Digest of a site's rows as the study reads them; hexadecimal."""
    found = hashlib.sha256()
    for part in (rows.X, rows.y, rows.weights, rows.marks):
        if part is not None:
            found.update(f"{part.dtype.str} {part.shape}\n".encode())
            found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's data set. table: its file, in the folder or elsewhere, or the address of a database; name: what the ledger knows it by;
    batch, withdrawn: columns with what each row came and leaves with, for `secure_afl.node.changes`; the others say how the
    table is written, see `tables.reading.Form`.
    """

    table: str
    name: str
    separator: str = ""
    decimal: str = "."
    encoding: str = "utf-8"
    sheet: str = ""
    query: str = ""
    batch: str = ""
    withdrawn: str = ""

    def __post_init__(self) -> None:
        normal = unicodedata.normalize("NFKC", self.name).strip()
        if not normal or normal != self.name or not normal.isprintable():
            raise DataError(
                f"expected a name of the data set that is not empty, and of printable characters without spaces around "
                f"them, got {self.name!r}"
            )


def home(path: Path) -> Path:
    """The folder with the identity: of a study in `studies/` the one above."""
    at = path.absolute()
    return at.parent.parent if at.parent.name == STUDIES and not (at / "identity.key").exists() else path


def study_folders(path: Path) -> list[Path]:
    """The folders of a party's studies, or the server's: itself, and those in `studies/`. Raises `FileError` if there is none."""
    found = [one for one in (path, *sorted((path / STUDIES).glob("*"))) if (one / "study.toml").exists()]
    if not found:
        raise FileError(f"{path / 'study.toml'}: expected a study here, or in {STUDIES}/NAME/, found none")
    return found


def one_study(path: Path) -> Path:
    """The folder of the study that is meant: the folder itself, or the only one in `studies/`. Raises `FileError` for several."""
    if (path / "study.toml").exists():
        return path
    found = study_folders(path)
    if len(found) > 1:
        raise FileError(
            f"{path}: expected the folder of one study, got that of {len(found)}: give one of {', '.join(map(str, found))}"
        )
    return found[0]


def study_folder(path: Path, name: str) -> Path:
    """Where a study of that name is in a party's folder; the only study, without a name, is in the folder itself."""
    return path / STUDIES / name if name else path


def check_name(name: str, store: Store) -> None:
    """Raises `FileError` for a data set that the ledger knows by a name in other cases: it would be let out twice."""
    for known in store.ledger.data_sets():
        if known != name and known.casefold() == name.casefold():
            raise FileError(
                f"expected {known!r}, by which the ledger knows a data set, or another name, got {name!r}"
            )


@dataclass(frozen=True)
class Spent:
    """What a data set has spent in so many sessions with noise: epsilon, at that delta."""

    data_set: str
    sessions: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Used:
    """A name in the ledger, of a data set or of a change: its last session, whether a vector left there, and whether the audit
    log says of an upload that it was of this name.
    """

    name: str
    session: str
    uploaded: bool
    logged: bool


@dataclass(frozen=True)
class Folder:
    """A folder of one party, or of the server, which has no key."""

    path: Path

    @property
    def home(self) -> Path:
        """Where identity, ledger and audit log are."""
        return home(self.path)

    @property
    def state(self) -> Path:
        """The file with the sessions: of each study its own at the server, one for all at a party. Raises `FileError`."""
        key = self.home / "identity.key"
        return (self.path if key.exists() and keys.is_server(key) else self.home) / "state.db"

    def terms(self) -> tuple[Terms, Study]:
        """What was agreed on. Raises `FileError` that names the file."""
        parties = roster.read(self.path / "roster.toml")
        policy = policy_file.read(self._policy)
        at = self.path / "study.toml"
        study = study_file.read(at)
        try:
            study.check_policy(policy)
            plan = study.plan(len(parties.clients.members))
            return Terms(parties, plan, policy, study.encryption), study
        except (CryptoError, DataError, LocalProtocolError, PolicyError) as error:
            raise FileError(f"{at}: {error}") from None

    @property
    def _key(self) -> tuple[Member, Identity]:
        """Name and identity of the party. Raises `FileError`, also for the key of a server."""
        return keys.read_key(self.home / "identity.key", keys.service_passphrase)

    @property
    def _policy(self) -> Path:
        own = self.path / "policy.toml"
        return own if own.exists() else self.home / "policy.toml"

    def data(self, study: Study) -> Rows:
        """The site's rows.

        Raises `FileError`. Its text goes into the node's log and quotes no cell; its notes do, for the table's owner.
        """
        return self._read(study)[0]

    def prepared(self, study: Study, clients: Roster, who: str = "this site") -> Prepared:
        """What the site gives to a study that keeps its sum. Raises as `data`, and `DataError` for a change that has to wait."""
        own, said = self._read(study)
        return changes.prepared(self.path, study, clients, who, own, said)

    def _read(self, study: Study) -> tuple[Rows, Said]:
        """The site's rows, and what is said of each."""
        data = self._data()
        self._check_named_once(data)
        database = data.table.startswith(POSTGRES)
        table: Path | str = data.table if database else self.path / data.table
        try:
            if isinstance(study, NetworkStudy) and study.arrays:
                rows, said = _arrays(table, study, data)
            else:
                from secure_afl.tables import reading  # pyarrow, which a server does not need

                form = Form(data.separator, data.decimal, data.encoding, data.sheet, data.query)
                rows, said = _table(table, study, form, "" if database else str(table), data)
                reading.forget_text()
            return study.prepared(rows, self.path), said
        except TableError as error:
            refused = FileError(error.public)
            for line in error.private:
                refused.add_note(line)
            raise refused from None
        except DataError as error:
            raise FileError(str(error)) from None

    def _check_named_once(self, data: Data) -> None:
        """Raises `FileError` for a table that another study of this party knows by another name, a copy included: it would be let
        out twice.
        """
        for other in study_folders(self.home):
            if other == self.path or not (other / "data.toml").exists():
                continue
            known = Folder(other)._data()
            different = known.name != data.name and known.query == data.query
            if different and _same(_where(other, known), _where(self.path, data)):
                raise FileError(
                    f"{self.path / 'data.toml'}: expected {known.name!r}, by which {other.name} knows this table, got "
                    f"{data.name!r}: the ledger lets a table out once, by its name"
                )

    def table_file(self) -> Path | None:
        """The file with the site's rows; None if a database has them. Raises `FileError`."""
        table = self._data().table
        return None if table.startswith(POSTGRES) else self.path / table

    def data_set(self) -> str:
        """What the ledger knows the site's rows by. Raises `FileError`."""
        return self._data().name

    def _data(self) -> Data:
        return whole.read_toml(self.path / "data.toml", Data)

    def endpoint(
        self,
        *,
        unapproved: bool = False,
        ahead: Callable[[Study, int], Ready | None] = lambda study, number: None,
        rows: Callable[[Study], Rows | None] = lambda study: None,
        known: Known | None = None,
    ) -> Endpoint:
        """The party of this folder. unapproved: for simulations, whose studies nobody has to approve. ahead: the vector of a
        sum that was computed beforehand, and rows: the rows that were read then, if there are such (`secure_afl.node.ahead`).
        known: see `AuditLog`.

        Raises `FileError`, and `StoreError` for its `state.db`.
        """
        _, identity = self._key
        terms, study = self.terms()

        def contribute(wanted: SumWanted, learned: bytes) -> Contribution:
            layers = study.unpacked(learned)
            study.check_before(wanted.round, layers)
            if wanted.verified is not None:
                layers = list(study.check_verified(wanted.verified, layers))
            if study.keeps_sum:
                ready = ahead(study, wanted.round)
                prepared = (ready and ready.prepared) or self.prepared(
                    study, terms.parties.clients, endpoint.name
                )
                check_name(prepared.contribution[1], store)
                store.ledger.check(prepared.contribution[1], wanted.session, None, None)
                prepared.leave(self.path, wanted.session)
                return prepared.contribution
            if ready := ahead(study, wanted.round):
                check_name(ready.data_set, store)
                self._check_rows(ready.data_set, ready.rows, store, wanted.session)
                return ready.vector, ready.data_set
            own = rows(study) or self.data(study)
            check_name(own.name, store)
            self._check_rows(own.name, digest_of(own), store, wanted.session)
            if study.tests and wanted.round >= len(terms.plan) - 2:
                last = held_out.vector(study, wanted.round, own, wanted.verified, terms.parties.clients)
                return last, own.name
            return study.vector(wanted.round, own, endpoint.name, layers), own.name

        weights = terms.encryption is not None and terms.encryption.release is Release.WEIGHTS
        store = Store(self.home / "state.db", identity)
        store.ledger.compose = composed
        endpoint = Endpoint(
            identity,
            terms,
            store,
            contribute,
            solve=_solved if weights else None,
            check_announced=study.check_announced,
            waits=study.counts is not None,
            result=study.largest_result([member.name for member in terms.parties.everybody]),
            learned=lambda model, announced, session, sums: self._learned(
                model, announced, session, study, endpoint.name, sums, terms.parties.clients
            ),
            under_way=self.put_aside,
            audit=self.home / AUDIT,
            study=b"" if unapproved else study.digest,
            log_known=known,
        )
        return endpoint

    def _check_rows(self, name: str, rows: str, store: Store, session: bytes) -> None:
        """Raises `FileError` if the rows of a data set are not those of the first sum of its session, which is under way.

        rows: their digest; `rows.json` has that of the first sum.
        """
        used, at = store.ledger.used(name), self.path / ROWS
        # Of another session, as of another study, the ledger says so; encrypted sums do not name theirs.
        if used and session in (b"", used[0]) and any(used[0].hex() in one for one in store.open_sessions()):
            try:
                known = msgspec.json.decode(whole.read(at), type=dict[str, str])
            except (msgspec.DecodeError, FileError):  # damaged, or gone
                known = {}
            if known.get(name) == rows:
                return
            raise FileError(
                f"{self.path}: expected the rows of {name!r} as in the first sum of session {session_name(used[0])}, which is "
                f"under way, the table, data.toml or {ROWS} has changed since: sums over different rows belong to no model. Bring the "
                "table back, or give the session up (secure-afl flower give-up)"
            )
        # For the owner alone: of a row that is all but known, the digest tells the rest.
        whole.replace(at, msgspec.json.encode({name: rows}), secret=True)

    def approve(self, by: str, reason: str, shown: tuple[bytes, tuple[bytes, ...]] | None = None) -> None:
        """The operator's decision that this party takes part in the study of its folder, with the roster that is there, signed
        into its audit log. by, reason: in the operator's words. shown: digests of the study and of the rosters that the
        operator saw. Raises `FileError` for empty words, and if other files than those shown are there by now, `AuditError`.
        """
        parties = roster.read(self.path / "roster.toml")
        rosters = tuple(one.digest for one in parties.rosters().values())
        study = study_file.read(self.path / "study.toml")
        if shown not in (None, (study.digest, rosters)):
            raise FileError(f"{self.path}: the study or the roster is not what was shown: read it again")
        event = Approved(study.digest, rosters, *_words(by, reason))
        member, identity = self._key
        everybody = [one.verify_key for one in parties.everybody]
        if identity.verify_key not in everybody:
            raise FileError(
                f"{self.path / 'roster.toml'}: {member.name} with its present key is not in this roster"
            )
        clients = len(parties.clients.members)
        role = Role.CLIENT if everybody.index(identity.verify_key) < clients else Role.HOLDER
        with closing(AuditLog(self.home / AUDIT, identity, member.name, role, wait=_PATIENCE)) as log:
            log.take_revocations()  # of before
            log.append(event)
            if (at := self.home / "state.db").exists():
                with closing(Store(at, identity)) as store:
                    store.set_revoked(log.revoked)

    def revoke(self, by: str, reason: str, which: str = "") -> tuple[tuple[bytes, ...], bool]:
        """Take approvals back at once, also while the node is at work. which: the first digits of a study's digest, or `ALL`
        studies that are approved here; empty is the study of the folder. Gives the studies' digests, and whether the audit
        log has it already; else the node writes it there before anything leaves.

        Raises `FileError` if there is none to take back, `AuditError`, `StoreError`.
        """
        words, approved = _words(by, reason), self._approvals()
        digits = "".join(which.split()).lower()
        if which == ALL:
            found = tuple(approved)
        elif which:
            found = tuple(one for one in approved if one.hex().startswith(digits))
        else:
            found = tuple({study_file.read(self.path / "study.toml").digest}.intersection(approved))
        if not found or (len(found) > 1 and which != ALL):
            known = ", ".join(grouped(one) for one in approved) or "none"
            raise FileError(
                f"{self.path}: {'this study' if not which else f'{which!r}'} is not approved here, so there is nothing to "
                f"revoke; approved studies: {known} (--study DIGEST or --all)"
            )
        for one in found:
            revoke_at_once(self.home / AUDIT, Revoked(one, *words))
        return found, self._settled()

    def _settled(self) -> bool:
        """Whether the audit log has all revocations: they are written there unless a node is at work with it."""
        member, identity = self._key
        begun = read((self.home / AUDIT).read_bytes()).begun
        assert begun is not None  # it has approvals
        try:
            log = AuditLog(self.home / AUDIT, identity, member.name, begun.role)
        except AuditError:
            return not revocations(self.home / AUDIT)
        with closing(log), closing(Store(self.home / "state.db", identity)) as store:
            log.take_revocations()
            store.check_revoked(log.revoked)
        return True

    def approval(self) -> Approved | None:
        """The approval that holds of the folder's study, by its audit log, which is left as it is. Raises `FileError` for a log
        that is damaged or another party's.
        """
        return self._approvals().get(study_file.read(self.path / "study.toml").digest)

    def _approvals(self) -> dict[bytes, Approved]:
        """All that hold, by study."""
        at = self.home / AUDIT
        if not at.exists():
            return {}
        chain = read(at.read_bytes())
        key = self._key[1].verify_key
        if chain.faults or chain.begun is None or chain.begun.key != key:
            raise FileError(f"{at}: expected this party's audit log, got one that is damaged or another's")
        revoked = {one.study for one in revocations(at).values()}
        return {study: one for study, one in approvals(chain).items() if study not in revoked}

    def give_up(self) -> list[str]:
        """The party's, or the server's, open sessions are over: their secrets and journals are erased, and their names
        given. The ledger stays, so their data sets are spent. Raises `FileError`, and `StoreError` for its `state.db`.
        """
        at = self.state
        if not at.exists():
            raise FileError(f"{at}: expected the file of a party's sessions, found none")
        key = self.home / "identity.key"
        _, identity = keys.read_key(key, keys.service_passphrase, server=keys.is_server(key))
        with closing(Store(at, identity)) as store, store.transaction():
            names = store.open_sessions()
            for name in names:
                store.forget(name)
        return names

    def begin_anew(self, by: str, reason: str) -> Path | None:
        """The operator's decision that this party's `state.db` is lost, or an old copy, and another is begun, signed into its
        audit log. All sessions that the log tells of are over here and never joined again; which data sets they used, the
        operator has to know. Gives where the old file is now. Raises `FileError`, `AuditError`, `StoreError`.
        """
        event = Forgotten(*_words(by, reason))
        member, identity = self._key
        at, aside = self.home / "state.db", None
        if not (self.home / AUDIT).exists():
            raise FileError(
                f"{self.home / AUDIT}: expected this party's audit log, found none: nothing is known to be lost"
            )
        chain = read((self.home / AUDIT).read_bytes())
        if chain.begun is None:
            raise FileError(f"{self.home / AUDIT}: expected this party's audit log, got a damaged one")
        with closing(
            AuditLog(self.home / AUDIT, identity, member.name, chain.begun.role, wait=_PATIENCE)
        ) as log:
            if at.exists():
                aside = self.home / "state.lost.db"
                for ending in ("-wal", "-shm", ""):
                    if (one := self.home / f"state.db{ending}").exists():
                        one.replace(self.home / f"state.lost.db{ending}")
            with closing(Store(at, identity)) as store, store.transaction():
                for session in sorted(log.memory.joined):
                    store.ledger.join(session)
            log.append(event)
        return aside

    def rotate(self) -> Path:
        """Begin another file of this party's audit log; gives where the full one is now. Raises `FileError` while a session is
        under way, `AuditError`, and `StoreError` for its `state.db`.
        """
        member, identity = self._key
        begun = read(whole.read(self.home / AUDIT)).begun
        if begun is None:
            raise FileError(f"{self.home / AUDIT}: expected this party's audit log, got a damaged one")
        with (
            closing(Store(self.home / "state.db", identity)) as store,
            closing(AuditLog(self.home / AUDIT, identity, member.name, begun.role, wait=_PATIENCE)) as log,
        ):
            store.check_idle()
            return log.rotate()

    def renew(self, data_set: str, *, may_expose: bool) -> str:
        """The owner's decision that a data set of this party's ledger may serve another session, noted in its audit log
        before it holds; gives what was decided, in a sentence. See `Ledger.renew`.

        Raises `FileError` for a name that is not in the ledger and while a session is under way, `PolicyError` if a vector of it left, unless the owner
        says that it may expose the data set, and `StoreError`, `AuditError` for what cannot be read or written.
        """
        at = self.home / "state.db"
        if not at.exists():
            raise FileError(f"{at}: expected the file of a party's ledger, found none")
        member, identity = self._key
        with (
            closing(Store(at, identity)) as store,
            closing(AuditLog(self.home / AUDIT, identity, member.name, Role.CLIENT)) as log,
            store.transaction(),
        ):
            store.check_idle()
            known = store.ledger.renew(data_set, may_expose=may_expose)
            if known is None:
                spent = ", ".join(map(repr, store.ledger.data_sets())) or "none"
                raise FileError(f"{at}: expected a data set that was used, got {data_set!r}: it has {spent}")
            session, uploaded = known
            log.append(Renewed(session, uploaded))
        left = "a vector of it had left" if uploaded else "no vector of it had left"
        return f"{data_set!r} may serve another session than {session_name(session)}, where {left}"

    def used(self) -> list[Used]:
        """What this party's ledger knows of each name. Raises `FileError`, and `StoreError` for its `state.db`."""
        at = self.home / "state.db"
        if not at.exists():
            return []
        _, identity = self._key
        entries = read(whole.read(self.home / AUDIT)).entries if (self.home / AUDIT).exists() else ()
        logged = [one.event for one in entries if isinstance(one.event, Contributed)]
        found = []
        with snapshot(at, identity) as store:
            for name in store.ledger.data_sets():
                session, uploaded = store.ledger.used(name) or (b"", False)
                named = any(commitment(identity, one.session, name) == one.rows for one in logged)
                found.append(Used(name, session_name(session), uploaded, named))
        return found

    def spent(self) -> tuple[Budget | None, list[Spent]]:
        """The budget of this party's policy, and what each data set has spent of it in sessions with noise.

        Raises `FileError`, and `StoreError` for its `state.db`.
        """
        budget = policy_file.read(self._policy).budget
        if not (self.home / "state.db").exists():
            return budget, []
        _, identity = self._key
        with snapshot(self.home / "state.db", identity) as store:
            found = []
            for name in store.ledger.data_sets():
                spendings = list(store.ledger.spent(name).values())
                delta = budget.delta if budget else max((one.delta for one in spendings), default=1e-6)
                found.append(Spent(name, len(spendings), composed(spendings, delta), delta))
        return budget, found

    def _learned(
        self,
        model: bytes,
        announced: bytes,
        session: bytes,
        study: Study,
        who: str,
        sums: SessionSums,
        clients: Roster,
    ) -> None:
        """Keep the model that the server sends: where sums are checked, only as this party computes it from those that it
        accepted, and what it computed. Of a network, keep the site's own head besides, unless the hidden layers are others than
        the seed's and those told before: how long it takes to fit a head to the rows tells of these.

        Raises `DataError` for a model that no site with this study takes, whatever its rows are, and `PolicyError` for one that
        does not follow from the sums.
        """
        layers, file = study.result(model)
        if len(layers) < len(study.shapes()):
            raise DataError(f"expected a model of {len(study.shapes())} layers, got the first {len(layers)}")
        study.check_layers(layers)  # also without rows: who refuses would tell that it has some
        adapts, of_table, cell, kept = study.adapts(layers, announced), None, None, None
        if not sums.unverified:
            digests = tuple(one.digest.hex() for _, one in sorted(sums.verified.items()))
            verified = sums.verified
            if study.keeps_sum:
                verified, kept = changes.accepted(self.path, study, verified, clients, session)
            layers, fitted = study.follow(verified, clients, layers)
            of_table = _model(study, fitted, session, digests) if study.tabular else None
            cell = exposed(study, fitted)
        elif study.tabular:
            of_table = _of_table(study, layers[-1], file, session, sums.unverified)
        self.keep(MODEL, layers, study)
        if found := held_out.accepted(study, sums.verified, clients):
            self.keep_figures(found.json())
        if cell:
            whole.replace(self.path / DISCLOSURE, (json.dumps(cell, indent=1) + "\n").encode())
        if of_table:
            of_table.save(self.path / TABLE_MODEL)
        if adapts and (self.path / "data.toml").exists():
            try:
                own = self.data(study)
                if len(own.X):
                    self.keep(PERSONAL, [*layers[:-1], study.personal_head(own, who, layers)], study)
            except Exception as error:  # noqa: BLE001  # a refusal would tell the server of the table
                tell(NotPersonal(str(error)))
        if kept:
            changes.keep(self.path, kept)
        keep_run(self.path, (MODEL, TABLE_MODEL, PERSONAL))

    def keep_table_model(self, study: Study, fitted: Any, session: bytes) -> bytes:
        """The server's: write the model file of a study with a codebook, and give its content for the parties; empty for
        other studies. fitted: the estimator.
        """
        if not study.tabular:
            return b""
        made = _model(study, fitted, session)
        made.save(self.path / TABLE_MODEL)
        return made.content

    def keep_figures(self, figures: dict[str, Any]) -> None:
        """Write figures of held-out rows, over earlier ones."""
        whole.replace(self.path / HELD_OUT, (json.dumps(figures, indent=1) + "\n").encode())

    def put_aside(self) -> None:
        """What an earlier session left is not taken for a result of the one under way: see `whole.put_aside`."""
        for name in (MODEL, TABLE_MODEL, PERSONAL, HELD_OUT, DISCLOSURE, REPORT, FAILURE):
            whole.put_aside(self.path / name)

    def keep(self, name: str, layers: Sequence[npt.NDArray[np.float64]], study: Study) -> None:
        """Write a model's weights, one array a layer, and the study's digest, over an earlier one, for the owner alone.

        Raises `FileError`.
        """
        written = io.BytesIO()
        np.savez(written, *layers, study=np.array(study.digest.hex()))  # `_STUDY`
        whole.replace(self.path / name, written.getvalue(), secret=True)


def exposed(study: Study, fitted: Any) -> dict[str, Any] | None:
    """The smallest cell of the sum that was opened, and warnings; None where no exact sum of rows by a codebook was."""
    statistics = getattr(fitted, "statistics_", None)
    if study.codebook is None or study.codebook.weights or study.privacy or statistics is None:
        return None
    from secure_afl.tables.disclosure import smallest

    found = smallest(statistics.gram, statistics.cross, study.codebook)
    return {
        "smallest_cell": found.cell,
        "smallest_cell_rows": found.rows,
        "pooled_rows": found.pooled,
        "columns": found.columns,
        "warnings": found.warnings(),
    }


def _where(folder: Path, data: Data) -> str:
    return data.table if data.table.startswith(POSTGRES) else str((folder / data.table).resolve())


def _same(one: str, two: str) -> bool:
    """Whether two tables are one, or one is a file with the content of the other. Raises `FileError`."""
    files = Path(one), Path(two)
    try:
        return one == two or (all(file.is_file() for file in files) and filecmp.cmp(*files, shallow=False))
    except OSError as error:
        raise FileError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _words(by: str, reason: str) -> tuple[str, str]:
    if not by.strip() or not reason.strip():
        raise FileError("expected the name of who decides, and a reason, got nothing")
    if visible(by + reason) != by + reason:
        raise FileError(
            f"expected a name and a reason in printable characters and one line, got {visible(by + reason)!r}"
        )
    return by.strip(), reason.strip()


def kept(folder: Path, name: str) -> list[npt.NDArray[np.float64]]:
    """A model that a party or the server kept, one array a layer."""
    return _kept(folder / name)[0]


def _kept(file: Path) -> tuple[list[npt.NDArray[np.float64]], str]:
    """The layers, and the study's digest in hexadecimal, empty in files of before it was noted."""
    with np.load(file, allow_pickle=False) as arrays:
        said = str(arrays[_STUDY]) if _STUDY in arrays.files else ""
        return [arrays[one] for one in arrays.files if one != _STUDY], said


def kept_network(file: Path, path: Path) -> tuple[NetworkStudy, list[npt.NDArray[np.float64]]]:
    """The study, and a model of it that a party or the server kept. Raises `FileError`, `DataError`: of another study, too."""
    study = study_file.read(path)
    if not isinstance(study, NetworkStudy) or study.codebook:
        raise DataError(
            f"{path}: expected a study with [fedacnnl] and no codebook, whose {MODEL} predicts from arrays; a study with a "
            f"codebook and [ridge] leaves {TABLE_MODEL}"
        )
    try:
        layers, said = _kept(file)
    except Exception:  # noqa: BLE001 - what a damaged zip raises is not documented
        raise DataError(f"{file.name}: expected weights, as a node keeps them in {MODEL}") from None
    if not all(layer.dtype == np.float64 and np.isfinite(layer).all() for layer in layers):
        raise DataError(f"{file.name}: expected finite weights of float64, got others: the file is damaged")
    if said != study.digest.hex():
        raise DataError(
            f"{file.name}: expected a model of {path}, digest {study.digest.hex()[:16]}, got one of "
            f"{f'a study with digest {said[:16]}' if said else 'a version that noted no study'}"
        )
    return study, layers


def _solved(
    plan: SumPlan, total: npt.NDArray[np.float64], entry_error: float, survivors: int
) -> npt.NDArray[np.float64]:
    from secure_afl.sums.encrypted import weights

    return weights(plan, total, entry_error, survivors)


def _model(study: Study, fitted: Any, session: bytes, sums: tuple[str, ...] = ()) -> "Model":
    """The model file of a fitted estimator. sums: digests of those that a party checked, from which it fitted it."""
    from secure_afl.tables import model as models

    assert study.codebook is not None
    of = models.of_glm if hasattr(fitted, "family") else models.of_ridge
    return of(
        fitted,
        study.codebook,
        data=models.OF_STUDY,
        backend=study.backend.value,
        session=session.hex(),
        verified=sums,
    )


def _of_table(study: Study, weights: Floats, file: bytes, session: bytes, unverified: str) -> "Model":
    """A party's model file, out of the one that the server sent, if any. Raises `DataError` for one that is not of these
    weights, of the study and of the session.
    """
    from secure_afl.tables import model as models

    assert study.codebook is not None
    return models.of_study(
        weights,
        study.codebook,
        study.estimator(),
        study.backend.value,
        session.hex(),
        file,
        unverified=unverified,
    )


def _arrays(file: Path | str, study: NetworkStudy, data: Data) -> tuple[Rows, Said]:
    """`_table` of a file of arrays. Raises `DataError`."""
    if not isinstance(file, Path) or file.suffix != samples.FILE:
        raise DataError(
            f"{data.table}: expected a {samples.FILE} file, as the study names no features, got another table"
        )
    if data.batch or data.withdrawn:
        raise DataError(f"{data.table}: expected no batch and withdrawn with a file of arrays, got columns")
    X, y = study.read_arrays(file)
    return Rows(X, y, name=data.name), Said.of_one(data.name, len(X))


def _table(table: Path | str, study: Study, form: Form, name: str, data: Data) -> tuple[Rows, Said]:
    """The rows of a file or database, and what is said of each. name: what errors call it. Raises `DataError`."""
    from secure_afl.tables import reading  # pyarrow, which a server does not need

    cells = reading.read(table, form, name=name)
    rows, numbers = _rows(cells, study)

    def said(column: str) -> npt.NDArray[np.str_]:
        return np.asarray(cells.column(column).to_numpy(), dtype=np.str_)[numbers]

    many = len(rows.X)
    if not (data.batch or data.withdrawn):
        return rows._replace(name=data.name), Said.of_one(data.name, many)
    batch = said(data.batch) if data.batch else np.full(many, "")
    withdrawn = said(data.withdrawn) if data.withdrawn else None
    return rows._replace(name=data.name), Said.parse(np.where(batch == "", data.name, batch), withdrawn, many)


def _rows(cells: "Cells", study: Study) -> tuple[Rows, npt.NDArray[np.int64]]:
    """The rows as the study has them, without a name, and their numbers in the table, from 0. Raises `DataError`."""
    if study.codebook:
        from secure_afl.tables.encoding import encode

        design = encode(study.codebook, cells)
        assert design.outcome is not None
        y = np.array(study.classes)[design.outcome] if study.classes else design.outcome.astype(np.float64)
        return Rows(design.X, y, design.weights, marks=design.held_out), design.rows - 1
    from secure_afl.tables.cells import is_any

    for name in (*study.features, study.label):
        cells.column(name)  # a missing column first: it often explains the rest
    X = np.empty((cells.rows, len(study.features)))
    faults = []
    for at, name in enumerate(study.features):
        X[:, at] = cells.numbers(name)
        faults += cells.faults(name, np.isnan(X[:, at]), "a finite number")
    known = is_any(cells.column(study.label), study.classes)
    faults += cells.faults(study.label, ~known, f"one of {', '.join(map(repr, study.classes))}")
    refuse(cells.source, faults)
    # Piece by piece: a text is an object of 50 bytes on its way to NumPy.
    parts = [
        np.asarray(part.to_numpy(zero_copy_only=False), dtype=np.str_)
        for part in cells.column(study.label).chunks
    ]
    y = np.concatenate([np.empty(0, np.str_), *parts])
    return Rows(X, y), np.arange(cells.rows)
