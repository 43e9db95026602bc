"""Rows that columns of 0 and 1 single out in an opened sum, with and without disclosure control.

Take a combination v of the columns that is ±1 in one pooled row and 0 in all others. Then vᵀGv = 1, and G·v is that row.
For integer coefficients the design's product with v is integer, so vᵀGv = 1 identifies such a v without knowing any row.
The attacker therefore searches short vectors in the lattice that the columns span: it reduces their basis and tries
sums of up to three basis vectors. The classes are columns too: the cross-covariance and the counts contain their Gram
matrix.
"""

import itertools

import numpy as np

from secure_afl.simulations.attacks import designs
from secure_afl.simulations.attacks.finding import Finding, Result, Watch
from secure_afl.simulations.attacks.population import CLIENTS, Setting, Statistic
from secure_afl.simulations.data.dataset import Floats, Ints
from secure_afl.simulations.data.partition import default_spec, partition
from secure_afl.simulations.study.control import coded
from secure_afl.tables.codebook import LEAST_ROWS

NAME = "leverage"
_LEVELS = "levels as they are"
_DESIGNS = ((_LEVELS, 1), (f"secure-afl, least_rows {LEAST_ROWS}", LEAST_ROWS))
STEPS = len(_DESIGNS)
_LOVASZ = 0.99
_WEIGHT = 2**10


def measure(setting: Setting, watch: Watch) -> Result:
    """Repeat with different divisions of the rows and count the opened sums that show a row. No finding for data without
    columns of 0 and 1.
    """
    data, findings = setting.data, []
    layout = data.layout
    for design, least_rows in _DESIGNS:
        watch(f"{NAME}: {design}")
        if not (layout and layout.variables):
            continue
        statistic = Statistic.of(data)
        columns = [index for variable in layout.variables for index in variable.indicators]
        shown = exact = read = 0
        for seed in range(setting.seed, setting.seed + setting.repeats):
            spec = default_spec(data)
            parts = partition(data, spec, None if spec == "site" else CLIENTS, seed)
            control = coded(data, parts, 1, least_rows)
            held = [(control.data.X[part.train], control.data.y[part.train]) for part in control.parts]
            vectors = [statistic.model.vectors(X, y, "a client")[0] for X, y in held]
            gram, cross, _ = statistic.parts(designs.opened_sum(vectors, statistic))
            rows = singled_out(gram, cross, [0, *(1 + index for index in columns)])
            true = np.concatenate([X for X, _ in held])
            right = sum(bool((np.abs(true - row).max(axis=1) < 1e-6).any()) for row in rows)
            shown, exact, read = shown + bool(right), exact + right, read + len(rows)
        findings.append(
            Finding(
                NAME,
                design,
                ours=least_rows > 1,
                measured="opened sums that show a row, share",
                value=shown / setting.repeats,
                guess=0.0,
                trials=setting.repeats,
                chance=float(not shown),
                note=f"{exact} of {read} rows read are exact; divisions by seed",
            )
        )
    return Result(findings)


def singled_out(gram: Floats, cross: Floats, indicators: list[int]) -> list[Floats]:
    """Rows (d,) that Gram (1 + d, 1 + d) and cross-covariance (1 + d, c) reveal, the column of ones first.

    indicators: which columns are 0 or 1 in every row, the first included.
    """
    with_classes = np.block([[gram, cross], [cross.T, np.diag(cross[0])]])
    chosen = [*indicators, *range(len(gram), len(with_classes))]
    rows: dict[bytes, Floats] = {}
    for vector in units(np.rint(with_classes[np.ix_(chosen, chosen)]).astype(np.int64)):
        row = with_classes[: len(gram), chosen] @ vector
        row = row[1:] * np.sign(row[0])  # the column of ones has a 1
        rows[(np.rint(row * 1e6) + 0.0).tobytes()] = row  # no negative zeros
    return list(rows.values())


def units(gram: Ints) -> list[Ints]:
    """Integer v with vᵀGv = 1 for an integer Gram matrix, among sums of up to three vectors of a reduced basis."""
    gram, vectors = _shortened(gram)
    squares, found = np.diag(gram), []
    for count in (1, 2, 3):
        for indices in itertools.combinations(range(len(gram)), count - 1):
            for signs in itertools.product((1, -1), repeat=count - 1):
                first = np.zeros(len(gram), dtype=np.int64)
                first[list(indices)] = signs
                with_each = gram @ first
                alone = first @ with_each
                for sign in (1, -1):
                    for last in np.flatnonzero(alone + 2 * sign * with_each + squares == 1):
                        if last > max(indices, default=-1):
                            found.append(vectors.T @ first + sign * vectors[last])
    return found


def _shortened(gram: Ints) -> tuple[Ints, Ints]:
    """The Gram of short combinations of the columns, none zero, and these, one a row: Lenstra, Lenstra and Lovász."""
    vectors = np.eye(len(gram), dtype=np.int64)
    # A small square of the coefficients on top: combinations that are zero in all rows become the shortest vectors.
    basis = np.linalg.cholesky(_WEIGHT * gram + np.eye(len(gram)))
    at = 1
    while at < len(gram):
        triangle = np.asarray(np.linalg.qr(basis[: at + 1].T, mode="r"), dtype=np.float64)
        for by in reversed(range(at)):
            if times := int(np.rint(triangle[by, at] / triangle[by, by])):
                vectors[at] -= times * vectors[by]
                basis[at] -= times * basis[by]
                triangle[:, at] -= times * triangle[:, by]
        before, over, left = triangle[at - 1, at - 1], triangle[at - 1, at], triangle[at, at]
        if over**2 + left**2 >= _LOVASZ * before**2:
            at += 1
        else:
            for both in (vectors, basis):
                both[[at - 1, at]] = both[[at, at - 1]]
            at = max(at - 1, 1)
    gram = vectors @ gram @ vectors.T
    kept = np.flatnonzero(np.diag(gram))
    return gram[np.ix_(kept, kept)], vectors[kept]
