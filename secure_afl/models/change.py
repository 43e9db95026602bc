"""A site's change of its rows in a sum: which rows come in or leave, and what has to hold before the difference leaves.

Whoever has the sums before and after a change has their difference, and if no other site changes, that is the Gram of the
site's changed rows alone. So each set of rows that can be computed alone must be one that may be opened alone. With more
changes these are the *classes*: the rows that came in with one batch and left with one withdrawal, or are still in
(docs/changed-rows.md).

The difference is of integers: the site encodes its statistics of all rows before and after, as `fit` would.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.fixed_point import FixedPoint
from secure_afl.errors import DataError
from secure_afl.protocol.session.parameters import SumPlan

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Packed = Callable[[Places], Floats]
"""The packed statistics of rows, by their numbers in increasing order."""

_SLACK = 2.0**-26  # of a leverage: below is rounding
_UNSEEN = 2.0**-40  # of the largest singular value of columns of norm 1, likewise
_MOST_LETTERS = 100


def most_leverage(least_rows: int) -> float:
    """The largest leverage that disclosure control leaves to a row."""
    return 1.0 / (least_rows // 2 + 1)


def leverages(columns: Floats) -> Floats:
    """The leverage (rows,) of each row in these columns (rows, columns): max over v of (x_iᵀv)² / ‖Xv‖²."""
    sizes = np.linalg.norm(columns, axis=0)
    directions, found, _ = np.linalg.svd(columns / np.where(sizes > 0, sizes, 1.0), full_matrices=False)
    seen = found > _UNSEEN * found.max(initial=0.0)
    return np.asarray((directions[:, seen] ** 2).sum(axis=1))


@dataclass(frozen=True)
class Inside:
    """What a site has in a sum. whole: digest of its statistics; batches: of each batch that came in, digest of the
    statistics of its rows that are in; withdrawals: the names of those that were made. pending: name and digest of a change
    whose vector may have left in a session that failed.

    Digests of few rows could be found by trying, so they stay in the memory of the site's process.
    """

    whole: bytes = field(repr=False)
    batches: Mapping[str, bytes] = field(repr=False)
    withdrawals: frozenset[str] = frozenset()
    pending: tuple[str, bytes] | None = field(default=None, repr=False)

    @classmethod
    def first(cls, vector: Floats, data_set: str) -> Self:
        """After `fit`."""
        return cls(_digest(vector), {data_set: _digest(vector)})

    def leaving(self, after: "Inside") -> "Inside":
        """While a change to `after` leaves, and if its session fails."""
        if after == self:
            return self
        new = (after.batches.keys() - self.batches.keys()) | (after.withdrawals - self.withdrawals)
        name = min(new or after.batches)  # nothing new: a first session of the same name again, renewed
        return replace(self, pending=(name, after.whole))


@dataclass(frozen=True, eq=False)
class Labels:
    """What is said of each row: the batch that it came with, and the withdrawal that it leaves with, empty if it stays."""

    batch: npt.NDArray[np.str_]
    withdrawn: npt.NDArray[np.str_]

    @classmethod
    def parse(cls, batch: npt.ArrayLike, withdrawn: npt.ArrayLike | None, rows: int) -> Self:
        """Raises `DataError`."""
        none = np.full(rows, "")
        labels = cls(
            _names("batch", batch, rows), none if withdrawn is None else _names("withdrawn", withdrawn, rows)
        )
        if (labels.batch == "").any():
            raise DataError("expected the name of a batch for each row, got an empty one")
        return labels

    @classmethod
    def of_one(cls, batch: str, rows: int) -> Self:
        """Rows of one batch, none of which leaves; memory has its name once. Raises `DataError`."""
        one = cls.parse([batch], None, 1)
        return cls(*(np.broadcast_to(names, rows) for names in (one.batch, one.withdrawn)))


@dataclass(frozen=True, eq=False)
class Change:
    """One site's change. stays, leaves: the rows of each batch that do, by their numbers; enters: the rows of the batch
    that comes in. name: of that batch, or of the withdrawal; empty if nothing changes.
    """

    who: str
    stays: Mapping[str, Places]
    leaves: Mapping[str, Places]
    enters: Places
    name: str

    @classmethod
    def of(cls, who: str, labels: Labels, mine: Places, inside: Inside) -> Self:
        """mine: the site's rows. Raises `DataError` for what is no change of rows that are in."""
        batch, withdrawn = labels.batch[mine], labels.withdrawn[mine]
        known = np.isin(batch, list(inside.batches))
        fresh = np.unique(batch[~known]).tolist()
        leaving = np.unique(withdrawn[withdrawn != ""]).tolist()
        if (withdrawn[~known] != "").any():
            raise DataError(
                f"{who}: expected withdrawals of rows that are in the sum ({', '.join(inside.batches)}), got one of a batch "
                "that is not"
            )
        if len(fresh) + len(leaving) > 1:
            raise DataError(
                f"{who}: expected one batch that comes in, or one withdrawal, got {', '.join([*fresh, *leaving])}: make one "
                "change after the other, and never bring rows that were withdrawn in again, corrected or not: the "
                "difference would be of these rows"
            )
        if used := [name for name in leaving if name in inside.withdrawals]:
            raise DataError(f"{who}: expected a new name for a withdrawal, got {used[0]!r} again")
        rows = {name: (batch == name) & known for name in inside.batches}
        return cls(
            who,
            {name: mine[own & (withdrawn == "")] for name, own in rows.items()},
            {name: mine[own & (withdrawn != "")] for name, own in rows.items()},
            mine[~known],
            "".join([*fresh, *leaving]),
        )

    @property
    def before(self) -> Places:
        """The rows that are in."""
        return _together([*self.stays.values(), *self.leaves.values()])

    @property
    def after(self) -> Places:
        """The rows that are in then."""
        return _together([*self.stays.values(), self.enters])

    def ledger_name(self, data_set: str) -> str:
        """What the site's ledger calls the change: another one of that name is refused."""
        if not self.name:
            return unchanged(data_set)
        return f"{data_set}: {'added' if len(self.enters) else 'withdrew'} {self.name}"

    def units(self, packed: Packed, encoding: FixedPoint) -> npt.NDArray[np.int64]:
        """The difference of the site's two vectors, in the units of the sum's encoding."""
        return encoding.encode(packed(self.after)).view(np.int64) - encoding.encode(packed(self.before)).view(
            np.int64
        )

    def changed(self, packed: Packed, inside: Inside) -> Inside:
        """What the site has in the sum after the change. Raises `DataError` if other rows are in it than these before."""
        said = [(self.before, inside.whole, "that are in the sum")]
        for name, digest in inside.batches.items():
            said.append((_together([self.stays[name], self.leaves[name]]), digest, f"of the batch {name!r}"))
        for rows, digest, which in said:
            if _digest(packed(rows)) != digest:
                raise DataError(
                    f"{self.who}: expected all rows {which}, as they were given before and in that order, got {len(rows)} "
                    "rows with other statistics"
                )
        batches = {name: _digest(packed(rows)) for name, rows in self.stays.items()}
        if len(self.enters):
            batches[self.name] = _digest(packed(self.enters))
        made = {self.name} if any(map(len, self.leaves.values())) else set()
        whole = _digest(packed(self.after))
        if self.name and inside.pending and inside.pending[1] != whole:
            raise DataError(
                f"{self.who}: the session of the change {inside.pending[0]!r} failed, and these are not its rows: give those again. A "
                "server that opened its sum and said that it failed has the difference of the two changes"
            )
        return Inside(whole, batches, inside.withdrawals | made, None if self.name else inside.pending)

    def check(self, columns: Floats, roots: Floats | None, data_set: str, least_rows: int) -> None:
        """Raises `DataError` if the change has to wait.

        columns: of all rows given, (rows, columns), the one of ones included; roots: of their weights. data_set: the
        batch of `fit`, of which some must stay: what left of it is known by differences, and without it at the other sites
        the sum would be of one site alone.
        """
        weighs = np.ones(len(columns), dtype=np.bool_) if roots is None else roots > 0

        def counted(rows: Places) -> Places:
            return rows[weighs[rows]]  # a row without weight is not in the sum

        if len(self.leaves.get(data_set, ())) and len(counted(self.stays[data_set])) < least_rows:
            raise DataError(
                f"{self.who}: expected at least {least_rows} rows (least_rows) of the data set of `fit` to stay, got "
                f"{len(counted(self.stays[data_set]))}: without any, the sum would be of fewer sites than its policies ask "
                "for; fit anew"
            )
        parts = [(f"the batch {self.name!r}", self.enters)]
        for name, rows in self.leaves.items():
            if len(rows):
                parts.append((f"what leaves of the batch {name!r}", rows))
                parts.append((f"what stays of the batch {name!r}", self.stays[name]))
        for what, given in parts:
            rows = counted(given)
            if not len(given):
                continue
            if len(rows) < least_rows:
                raise DataError(
                    f"{self.who}: expected at least {least_rows} rows (least_rows) in {what}, got {len(rows)}: whoever has "
                    "the sums before and after has their difference, and reads them from it; wait for more rows"
                )
            if _stands_out(columns[rows], None if roots is None else roots[rows], least_rows):
                raise DataError(
                    f"{self.who}: expected rows in {what} of which none stands out, as each value of a column with two values "
                    f"in at least {least_rows} rows, and a leverage of at most {most_leverage(least_rows):.2g} in all "
                    f"{columns.shape[1]} columns together, which takes some {least_rows // 2 + 1} rows for each column, got "
                    f"{len(rows)} rows that are not so: rows could be read from the difference of the sums; wait for more "
                    "rows"
                )


def change_plan(fit: SumPlan, session: bytes, least_rows: int, clients: int, agreement: str) -> SumPlan:
    """The sum of what changes in a session's sum. fit: the plan of such a sum, with the digits that vectors have; clients: all
    of the old sum's. Sites that mean another session or least_rows refuse the name.
    """
    name = f"change {session.hex()[:12]}/{least_rows}" + (f", {agreement}" if agreement else "")
    return replace(fit, statistic=name, units=True, survivors=clients, system=None)


def unchanged(data_set: str) -> str:
    """What a ledger calls a vector of zeros: a new name each time, as it says nothing of rows."""
    return f"{data_set}: unchanged, {secrets.token_hex(8)}"


def _stands_out(columns: Floats, roots: Floats | None, least_rows: int) -> bool:
    low, high = columns == columns.min(axis=0), columns == columns.max(axis=0)
    two = (low | high).all(axis=0) & ~(low & high).all(axis=0)
    rarer = np.minimum(low.sum(axis=0), high.sum(axis=0))
    if (rarer[two] < least_rows).any():
        return True
    weighted = columns if roots is None else columns * roots[:, None]
    return bool(leverages(weighted).max() > most_leverage(least_rows) + _SLACK)


def _names(what: str, given: npt.ArrayLike, rows: int) -> npt.NDArray[np.str_]:
    values = np.asarray(given)
    words = values.dtype.kind == "U" or (
        values.dtype.kind == "O" and all(isinstance(one, str) for one in values.ravel())
    )
    if values.shape != (rows,) or not words:
        raise DataError(
            f"expected {what} as a name for each of {rows} rows, got shape {values.shape} of type {values.dtype}"
        )
    for name in np.unique(values.astype(np.str_)).tolist():
        if len(name) > _MOST_LETTERS or not name.isprintable() or name != name.strip():
            raise DataError(
                f"expected names in {what} of at most {_MOST_LETTERS} printable letters without spaces around them, got "
                f"{name[:_MOST_LETTERS]!r}"
            )
    return values.astype(np.str_)


def _together(parts: list[Places]) -> Places:
    return np.sort(np.concatenate(parts))


def _digest(vector: Floats) -> bytes:
    return sha256(vector.tobytes()).digest()
