"""A later session of a study in which each site gives the change of its rows (docs/changed-rows.md): what is kept for it.

    kept.sum        the last sum, and at a site how its rows are in it; for the owner alone, replaced when a session ends

A site codes each row once, when it comes in, and keeps how. So its table has all rows that are in, as they were, in their
order, and those that come in. What leaves in a session is written down before: if the session fails, its sum may have been
opened, so the site makes the same change again or none.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.errors import DataError
from secure_afl.models.change import Inside, Labels, change_plan
from secure_afl.protocol.files import whole
from secure_afl.protocol.session.backend import Backend
from secure_afl.protocol.session.errors import FileError, PolicyError
from secure_afl.protocol.session.ledger import session_name
from secure_afl.protocol.session.parameters import SESSION_BYTES, SumPlan, VerifiedSum
from secure_afl.protocol.session.policy import Policy
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.server import OpenedSum
from secure_afl.protocol.transport.driver import Contribution
from secure_afl.tables.codebook import LEAST_ROWS

if TYPE_CHECKING:  # scikit-learn
    from secure_afl.analytic.solve import Solution
    from secure_afl.node.study import Rows, Study
    from secure_afl.sums.aggregation import Aggregate, Outcome
    from secure_afl.sums.counted import Telling

Floats = npt.NDArray[np.float64]

KEPT = "kept.sum"
_SESSION = re.compile(f"[0-9a-f]{{{2 * SESSION_BYTES}}}")


class Sum(msgspec.Struct, frozen=True):
    """A sum that can change. session: its number; continues: that of the session before, hexadecimal, or empty; clients: of
    the sum, by name; units: int64, in those of the encoding.
    """

    session: bytes
    continues: str
    clients: tuple[str, ...]
    encoding: FixedPoint
    units: bytes

    @classmethod
    def of(cls, one: "Aggregate", continues: str) -> Self:
        assert one.units is not None
        assert one.encoding is not None
        return cls(one.session, continues, one.survivors, one.encoding, one.units.astype("<i8").tobytes())

    def aggregate(self) -> "Aggregate":
        from secure_afl.sums.aggregation import Aggregate

        units, many = np.frombuffer(self.units, "<i8").astype(np.int64), len(self.clients)
        total = self.encoding.decode_sum(units.view(np.uint64), many)
        error = self.encoding.entry_error(many)
        return Aggregate(self.clients, error, len(units), total, units, self.encoding, self.session)


class KeptRows(msgspec.Struct, frozen=True):
    """A site's rows in a sum, in their order. data_set: the name of those of the first session; table: digest of all as the
    table has them; batches: of each row; coded: float64 (rows, features) as they went out, if `used` (bool) says they did.
    """

    data_set: str
    table: bytes
    batches: tuple[str, ...]
    coded: bytes
    used: bytes
    inside: Inside

    def __repr__(self) -> str:  # no value of a row
        return f"{type(self).__name__}({len(self.batches)} rows of {self.data_set!r})"


class Kept(msgspec.Struct, frozen=True):
    """`kept.sum`. rows: of `sum`; leaving: what they are if the session of that number ends well, whose vector may have left."""

    sum: Sum | None = None
    rows: KeptRows | None = None
    leaving: tuple[bytes, KeptRows] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Prepared:
    """What a site gives, with its ledger's name of it. before: what it keeps; after: its rows if the session ends well."""

    contribution: Contribution
    before: Kept
    after: KeptRows

    def leave(self, folder: Path, session: bytes) -> None:
        """Write down what leaves in this session, before it does. Raises `FileError`."""
        known = self.before.rows
        if known:
            inside = known.inside.leaving(self.after.inside)
            known = msgspec.structs.replace(known, inside=inside)
        _write(folder, Kept(self.before.sum, known, (session, self.after)))


def check(study: "Study") -> None:
    """Raises `DataError` for a study whose sum cannot be kept and changed."""
    if study.continues and not _SESSION.fullmatch(study.continues):
        raise DataError(
            f"expected continues as the number of a session, {2 * SESSION_BYTES} digits from 0 to f, got {study.continues!r}"
        )
    if study.continues and not study.keeps_sum:
        raise DataError("expected keeps_sum = true with continues, got continues alone")
    ridge = getattr(study, "ridge", None)
    against = {
        "no [ridge]": ridge is None,
        f"the backend {study.backend}": study.backend is not Backend.MASK,
        "several rounds": ridge and ridge.rounds > 1,
        "[privacy]": study.privacy,
        "held_out": study.tests,
        "rows_per_column": getattr(study, "rows_per_column", 0),
        "class_weight": ridge and ridge.class_weight,
    }
    if study.keeps_sum and (found := [what for what, there in against.items() if there]):
        raise DataError(
            "expected [ridge] with the backend mask and one round, and no [privacy], held_out, rows_per_column or class_weight, "
            f"in a study whose sum is kept for changes (keeps_sum), got {', '.join(found)}"
        )


def check_policy(policy: Policy) -> None:
    """Raises `PolicyError` for a policy under which sites check no sums."""
    if not policy.checks_sums:
        raise PolicyError(
            'expected a policy with the profile "active" and verify = ["tags"] or ["replay"] for a study with keeps_sum: each '
            "site adds the change that it checked to the sum that it checked"
        )


def least_rows(study: "Study") -> int:
    """The fewest rows that may come in, leave, or stay."""
    return study.codebook.least_rows if study.codebook else LEAST_ROWS


def plan(study: "Study", fit: SumPlan, clients: int) -> SumPlan:
    """The sum of a study that continues a session. fit: that of all rows, whose encoding has as many digits."""
    fit = replace(fit, fraction_bits=fit.spec(clients).fraction_bits)
    return change_plan(fit, bytes.fromhex(study.continues), least_rows(study), clients, study.agreement)


def prepared(
    folder: Path, study: "Study", clients: Roster, who: str, given: "Rows", said: Labels
) -> Prepared:
    """What a site gives to the session of a study. said: of each row, its batch and withdrawal.

    Raises `FileError` for rows that are not those in the kept sum, `DataError` for a change that has to wait.
    """
    from secure_afl.models.ridge import FederatedRidge, FederatedRidgeClassifier

    X, y, weights, name, _ = given
    kept, model = read(folder), study.estimator()
    assert isinstance(model, FederatedRidge | FederatedRidgeClassifier)  # `check`
    model.set_params(data_set=name)
    if not study.continues:
        if (said.batch != name).any() or (said.withdrawn != "").any():
            raise FileError(
                f"{folder / 'data.toml'}: expected rows without batches and withdrawals in the first session of a study, got "
                "some: leave their columns out of data.toml"
            )
        found = study.controlled(given)
        own = given._replace(X=found.X).some(found.kept)
        vector = model.vector(own.X, own.y, who, 0, own.weights)
        used = np.zeros(len(X), np.bool_)
        used[found.kept] = True
        rows = _rows(study, given, said, found.X, used, Inside.first(vector, name), np.arange(len(X)))
        return Prepared((vector, name), kept, rows)
    before, rows = _continued(folder, study, clients, kept, name)
    there = ~np.isin(said.withdrawn, list(rows.inside.withdrawals))  # else its withdrawal was made before
    known = there & np.isin(said.batch, list(rows.inside.batches))
    if _digest(study, given.some(known)) != rows.table or tuple(said.batch[known]) != rows.batches:
        raise FileError(
            f"{folder / 'data.toml'}: expected the {len(rows.batches)} rows of the table that are in the sum, as they were and in "
            f"their order, with their batches, and new rows in a new batch, got {known.sum()} rows of known batches that are "
            "others: bring the table back"
        )
    coded, used = X.copy(), np.zeros(len(X), np.bool_)
    coded[known] = np.frombuffer(rows.coded).reshape(-1, X.shape[1])
    used[known] = np.frombuffer(rows.used, np.bool_)
    new = np.flatnonzero(there & ~known)
    if len(new):
        found = study.controlled(given.some(new))
        coded[new] = found.X
        used[new[found.kept]] = True
    at = np.flatnonzero(used)
    (units, ledger_name), inside = model.change(
        coded[at],
        y[at],
        who,
        None if weights is None else weights[at],
        Labels(said.batch[at], said.withdrawn[at]),
        rows.inside,
        before.encoding,
        least_rows(study),
    )
    (asked,) = study.plan(len(clients.members))
    finer = asked.fraction_bits - before.encoding.fraction_bits
    if finer < 0:
        raise FileError(
            f"{folder / 'study.toml'}: expected no more max_rows, and no wider bounds, than in the first session, got sums with "
            f"{-finer} bits less for fractions than the sum that the study continues"
        )
    left = np.flatnonzero(there & (said.withdrawn == ""))
    after = _rows(study, given, said, coded, used, inside, left)
    return Prepared((units << np.int64(finer), ledger_name), kept, after)


def accepted(
    folder: Path, study: "Study", verified: Mapping[int, VerifiedSum], clients: Roster, session: bytes
) -> tuple[Mapping[int, VerifiedSum], Kept]:
    """The sum of all rows that follows from the one that a site accepted, in the place of this; and what it keeps, once it
    has taken the model. Raises `PolicyError` for a session that this site's rows are not of.
    """
    from secure_afl.sums.aggregation import decoded

    kept, one = read(folder), verified.get(0)
    if one is None:
        return verified, kept
    if kept.sum and kept.sum.session == session:  # the process was killed before it could erase the session
        total, after = kept.sum.aggregate(), kept
    else:
        if kept.leaving is None or kept.leaving[0] != session:
            raise PolicyError(
                f"expected what this party gave to session {session_name(session)} in {KEPT}, found that of another session: no "
                "model is taken"
            )
        opened = OpenedSum(0, one.units.view(np.uint64), one.survivors, ())
        (asked,) = study.plan(len(clients.members))
        total = decoded(asked, one.spec, clients, opened, session)
        if study.continues:
            before, _ = _continued(folder, study, clients, kept, kept.leaving[1].data_set)
            total = before.aggregate().changed(total)
        after = Kept(Sum.of(total, study.continues), kept.leaving[1])
    assert total.encoding is not None
    assert total.units is not None
    coding = total.encoding
    spec = msgspec.structs.replace(
        one.spec, fraction_bits=coding.fraction_bits, magnitude=coding.magnitude, width=coding.width
    )
    return {0: replace(one, spec=spec, packed=ring.pack(total.units.view(np.uint64), coding.width))}, after


def keep(folder: Path, kept: Kept) -> None:
    """Write what `accepted` gave. Raises `FileError`."""
    _write(folder, kept)


class Keeping:
    """The server's aggregator of a study whose sum is kept. `keep` writes it, once there is a model."""

    def __init__(self, inner: "Telling", study: "Study", folder: Path) -> None:
        self.backend, self.policy = inner.backend, inner.policy
        self._inner, self._study, self._folder = inner, study, folder
        self._kept = read(folder).sum
        self._plan: Sequence[SumPlan] = ()
        self._total: Sum | None = None

    def open(self, clients: Sequence[str], plan: Sequence[SumPlan]) -> None:
        """Raises `FileError` without the sum that the study continues."""
        self._plan = plan
        known, continues = self._kept, self._study.continues
        # The second: the server was killed at the end of this session.
        if continues and not (known and continues in (known.session.hex(), known.continues)):
            raise _no_sum(self._folder, continues, known)
        if continues and known and set(known.clients) != set(clients):
            raise _other_clients(self._folder, known, clients)
        self._inner.open(clients, self._study.plan(len(clients)))

    def sum(self, number: int, contributions: Mapping[str, Contribution]) -> "Aggregate":
        one, known = self._inner.sum(number, contributions), self._kept
        if self._study.continues:
            assert known is not None
            if known.session == one.session:
                one = known.aggregate()
            elif known.session.hex() != self._study.continues:
                raise _no_sum(self._folder, self._study.continues, known)
            else:
                one = known.aggregate().changed(one)
        self._total = Sum.of(one, self._study.continues)
        return one

    def solve(self, number: int, contributions: Mapping[str, Contribution]) -> "tuple[Solution, Outcome]":
        from secure_afl.sums.aggregation import solved_sum

        one = self.sum(number, contributions)
        return solved_sum(self._plan[number], one), one

    def tell(self, model: bytes, to: Sequence[str]) -> None:
        self._inner.tell(model, to)

    def keep(self) -> None:
        _write(self._folder, Kept(self._total))


def read(folder: Path) -> Kept:
    """What is kept; nothing without a file. Raises `FileError`."""
    at = folder / KEPT
    try:
        return msgspec.msgpack.decode(at.read_bytes(), type=Kept) if at.exists() else Kept()
    except OSError as error:
        raise FileError(f"{at}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, CryptoError):
        raise FileError(f"{at}: expected the sum as this version keeps it, got a damaged file") from None


def _write(folder: Path, kept: Kept) -> None:
    whole.replace(folder / KEPT, msgspec.msgpack.encode(kept), secret=True)


def _continued(
    folder: Path, study: "Study", clients: Roster, kept: Kept, data_set: str
) -> tuple[Sum, KeptRows]:
    """The sum that a study continues, and the site's rows in it. Raises `FileError`."""
    names = [member.name for member in clients.members]
    if kept.sum is None or kept.rows is None or kept.sum.session.hex() != study.continues:
        raise _no_sum(folder, study.continues, kept.sum)
    if set(kept.sum.clients) != set(names):
        raise _other_clients(folder, kept.sum, names)
    if kept.rows.data_set != data_set:
        raise FileError(
            f"{folder / 'data.toml'}: expected the name {kept.rows.data_set!r} of the rows of the first session, got {data_set!r}"
        )
    return kept.sum, kept.rows


def _no_sum(folder: Path, continues: str, known: Sum | None) -> FileError:
    found = f"that of session {session_name(known.session)}" if known else "none"
    return FileError(
        f"{folder / KEPT}: expected the sum of session {continues[:8]}, which the study continues, found {found}: a study continues "
        "the last session that ended with a model, whose study says keeps_sum"
    )


def _other_clients(folder: Path, known: Sum, clients: Sequence[str]) -> FileError:
    return FileError(
        f"{folder / 'roster.toml'}: expected the clients of the sum that the study continues ({', '.join(known.clients)}), got "
        f"{', '.join(clients)}: all of them take part in every change"
    )


def _rows(
    study: "Study",
    given: "Rows",
    said: Labels,
    coded: Floats,
    used: npt.NDArray[np.bool_],
    inside: Inside,
    at: Any,
) -> KeptRows:
    """Some of a site's rows, by their numbers, as they are kept."""
    return KeptRows(
        given.name,
        _digest(study, given.some(at)),
        tuple(said.batch[at].tolist()),
        coded[at].tobytes(),
        used[at].tobytes(),
        inside,
    )


def _digest(study: "Study", rows: "Rows") -> bytes:
    """Digest of rows as the table has them, whatever else is in it."""
    outcomes = (rows.y[:, None] == np.array(study.classes)).argmax(axis=1) if study.classes else rows.y
    found = hashlib.sha256(str(rows.X.shape).encode())
    for part in (rows.X, outcomes, rows.weights):
        if part is not None:
            found.update(np.ascontiguousarray(part).data)
    return found.digest()
