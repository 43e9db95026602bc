"""Differential privacy of a plan of sums: how much noise each client adds, and what that promises.

The mechanism and its argument are in docs/privacy.md. In short: a record moves each block of a client's statistics
(Gram, cross-covariance, count) by a proven distance; each client adds discrete Gaussian noise, so much that the
honest survivors' noise alone gives (ε, δ) over all sums of the plan; whatever is computed from the sums is covered.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from secure_afl.analytic.statistics import (
    Matrix,
    PublicBounds,
    Shape,
    SufficientStatistics,
    gamma,
    packed_length,
    symmetric,
)
from secure_afl.crypto.errors import optional
from secure_afl.crypto.noise import Block, Noise
from secure_afl.errors import DataError
from secure_afl.protocol.session.ledger import Spending

# The part of δ that pays for noise beyond reach; the rest is for the Gaussian mechanism.
_BEYOND_REACH = 2.0**-20
# The blocks' parts of the privacy loss. What noise on the cross-covariance and on the Gram do to weights is alike;
# the count is needed to two or three digits only.
_SHARES = (0.49, 0.49, 0.02)
# Rényi orders from 1.008 to 2^20: fine enough that ε is within 1 % of the best order's.
_ORDERS = [1 + 2 ** (k / 8) for k in range(-56, 161)]
_LEAST_PRIVATE, _MOST_PRIVATE = 64.0, 2.0**-20
# The least eigenvalue that a regularised Gram keeps, in parts of the noise norm: accuracy hardly changes from a quarter
# to one (docs/privacy.md).
_FLOOR = 0.5
_NORM_RISK = 2.0**-10


class Adjacency(Enum):
    """Which data sets must look alike: those that differ in a record more or less, or in what one record says.

    Under REPLACE the numbers of records are public; if every record is one row, no noise hides them.
    """

    ADD_REMOVE = "add-remove"
    REPLACE = "replace"


# By how much adjacent data sets differ more than by one record, in the Gram and the cross-covariance. Replacing moves
# the Gram by √2 only, as ‖xxᵀ − x'x'ᵀ‖² = ‖x‖⁴ + ‖x'‖⁴ − 2(x·x')².
_FACTORS = {Adjacency.ADD_REMOVE: (1.0, 1.0), Adjacency.REPLACE: (math.sqrt(2) * (1 + 2.0**-50), 2.0)}


class Privacy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(ε, δ) for every record of every honest client, over all sums of a plan together.

    record_rows: most rows that one record (a person, an image of many patches) puts into a sum; it puts in at least 1.
    dropout: the fraction of clients whose noise may be missing: no sum has more dropouts. corrupted: the fraction that
    may know or leave out their noise, for the server. One more is not counted on: a curious client knows its own.

    Raises DataError unless ε is from 2^-20 to 64, δ from 2^-100 to below 1, and both fractions from 0 to below 1.
    """

    epsilon: float
    delta: float
    adjacency: Adjacency = Adjacency.ADD_REMOVE
    record_rows: int = 1
    dropout: float = 0.2
    corrupted: float = 0.1

    def __post_init__(self) -> None:
        if not _MOST_PRIVATE <= self.epsilon <= _LEAST_PRIVATE:
            raise DataError(f"expected epsilon from 2^-20 to 64, got {self.epsilon!r}")
        if not 2.0**-100 <= self.delta < 1:
            raise DataError(f"expected delta from 2^-100 to below 1, got {self.delta!r}")
        if type(self.record_rows) is not int or self.record_rows < 1:
            raise DataError(f"expected a record of at least 1 row, got {self.record_rows!r}")
        for name, fraction in (("dropout", self.dropout), ("corrupted", self.corrupted)):
            if not 0 <= fraction < 1:
                raise DataError(f"expected a {name} fraction from 0 to below 1, got {fraction!r}")

    def survivors(self, clients: int) -> int:
        """The fewest of so many clients that a sum must include."""
        return clients - math.ceil(self.dropout * clients)

    def colluders(self, clients: int) -> int:
        """How many survivors' noise is not counted on."""
        return math.ceil(self.corrupted * clients) + 1


@dataclass(frozen=True)
class Sensitivity:
    """The largest euclidean distance between the blocks of one client's packed vector (upper triangle of the Gram,
    cross-covariance, count), as integers of fixed point, on adjacent data sets; in real units."""

    gram: float
    cross: float
    count: float


def sensitivity(
    privacy: Privacy,
    bounds: PublicBounds,
    *,
    fraction_bits: int,
    target_norm: float | None = None,
    waves: bool = False,
) -> Sensitivity:
    """What one record can do to `SufficientStatistics.from_rows(…, bounds).pack()` in at least `fraction_bits` bits.

    target_norm: agreed bound on the norm of a row of Y, which `bounded_rows` enforces; None takes target·√c.
    waves: whether these are rows of a part of the table by their places in it (`numpy.array_split`). One record more
    pushes as many rows over each border: into a part come at most record_rows rows, and out of it at most as many.

    Covers the rounding of rows, of float64 sums of any order and of fixed point: a sum of real numbers is never
    assumed. Raises DataError for fewer than 0 fraction bits, which could not hold a count.
    """
    if fraction_bits < 0:
        raise DataError(f"expected at least 0 fraction bits for a sum with noise, got {fraction_bits}")
    d, c, N = bounds.features, bounds.outputs, bounds.rows
    widest = bounds.target * math.sqrt(c)
    if target_norm is not None and not 0 < target_norm < math.inf:
        raise DataError(f"expected a target_norm above 0, got {target_norm!r}")
    rounded = 1 + gamma(2 * d + 2 * c + 64)  # a row's norm as `from_rows` lets it pass, and these very lines
    x, y = bounds.row_norm * rounded, (widest if target_norm is None else min(widest, target_norm)) * rounded
    # Entry by entry a float64 sum is off by γ_{N+2}·|X|ᵀ|X|, whose norm is at most N·x²; once for each data set.
    # Underflow adds less than 2^-900, half a unit on either side at most one unit of fixed point an entry.
    drift, unit = 2 * N * gamma(N + 2), 2.0**-fraction_bits
    rows = privacy.record_rows
    gram_factor, cross_factor = _FACTORS[Adjacency.REPLACE if waves else privacy.adjacency]
    gram = gram_factor * rows * x * x + drift * x * x + unit * math.sqrt(d * (d + 1) / 2) + 2.0**-900
    cross = cross_factor * rows * x * y + drift * x * y + unit * math.sqrt(d * c) + 2.0**-900 if c else 0.0
    count = float(rows if privacy.adjacency is Adjacency.ADD_REMOVE else rows - 1)  # exact in any code
    return Sensitivity(gram * rounded, cross * rounded, count * rounded)


def bounded_rows(
    X: Matrix, Y: Matrix, bounds: PublicBounds, target_norm: float | None = None
) -> tuple[Matrix, Matrix, int]:
    """Rows scaled down to the public bounds, each by itself, and how many were: that number is private.

    X (rows, features), Y (rows, outputs), float64; new arrays. Without it `from_rows` refuses a row over the bound,
    and a refusal tells something about the row.
    Raises DataError for values that are not finite.
    """
    if not (np.isfinite(X).all() and np.isfinite(Y).all()):
        raise DataError("expected finite rows, got NaN or infinity")
    x, changed = shortened(X, bounds.row_norm)
    peaks = _peaks(Y)
    high = peaks > bounds.target
    y = np.where(high[:, None], Y / peaks[:, None] * bounds.target, Y)
    if target_norm is not None:
        y, long = shortened(y, target_norm)
        changed |= long
    return x, y, int(np.count_nonzero(changed | high))


def shortened(rows: Matrix, limit: float) -> tuple[Matrix, npt.NDArray[np.bool_]]:
    """Rows (rows, columns) of a norm of at most `limit`, each for itself, and which ones were longer."""
    # In another order NumPy adds up squares otherwise, depending on how many rows there are: to the last bit, a row's
    # result must not depend on other rows.
    rows = np.ascontiguousarray(rows)
    peaks = _peaks(rows)
    unit = rows / peaks[:, None]  # so that no square overflows
    most = limit / np.sqrt(np.sum(unit**2, axis=1, initial=2.0**-60))
    # A row on the bound may pass by some roundings, for which `sensitivity` pays.
    long = peaks > most * (1 + gamma(rows.shape[1] + 8))
    return np.where(long[:, None], unit * most[:, None], rows), long


def _peaks(rows: Matrix) -> Matrix:
    """The largest magnitude in each row, above 0."""
    return np.asarray(np.max(np.abs(rows), axis=1, initial=np.finfo(np.float64).tiny))


def spent(multipliers: Sequence[float], delta: float) -> float:
    """The ε of sums made one after the other on the same records, each with noise of σ = multiplier·sensitivity.

    By Rényi divergence, which for discrete Gaussian noise is no more than for continuous noise (Canonne et al. 2020,
    theorem 4), in any number of dimensions. Later sums may depend on earlier ones.
    """
    with optional():
        from dp_accounting import ComposedDpEvent, GaussianDpEvent
        from dp_accounting.rdp import RdpAccountant

    if not all(0 < one < math.inf for one in multipliers) or not 0 < delta < 1:
        raise DataError(
            f"expected noise multipliers above 0 and a delta in (0, 1), got {multipliers} and {delta}"
        )
    accountant = RdpAccountant(_ORDERS)
    accountant.compose(ComposedDpEvent([GaussianDpEvent(one) for one in multipliers]))
    return float(accountant.get_epsilon(delta))


def composed(spendings: Sequence[Spending], delta: float) -> float:
    """The ε of several sessions on the same records at this δ; infinite if their noise beyond reach takes all of it.

    The noise of a session's survivors is nearly a discrete Gaussian, and reaches so far but for a part of its δ; for both
    each session pays as `multiplier` and `client_noise` have it.
    """
    if not spendings:
        return 0.0
    left = delta - math.fsum(one.delta * _BEYOND_REACH for one in spendings)
    if not left > 0:
        return math.inf
    return spent([one.multiplier for one in spendings for _ in range(one.sums)], left) * (1 + 2.0**-39)


@lru_cache
def multiplier(privacy: Privacy, sums: int) -> float:
    """The noise multiplier with which `sums` sums on the same records spend (ε, δ) together."""
    with optional():
        from dp_accounting import GaussianDpEvent, SelfComposedDpEvent, calibrate_dp_mechanism
        from dp_accounting.mechanism_calibration import LowerEndpointAndGuess
        from dp_accounting.rdp import RdpAccountant

    if type(sums) is not int or sums < 1:
        raise DataError(f"expected at least 1 sum, got {sums!r}")
    z = calibrate_dp_mechanism(
        lambda: RdpAccountant(_ORDERS),
        lambda noise: SelfComposedDpEvent(GaussianDpEvent(noise), sums),
        privacy.epsilon * (1 - 2.0**-40),
        privacy.delta * (1 - _BEYOND_REACH),
        LowerEndpointAndGuess(2.0**-10, 1.0),
        tol=2.0**-20,
    )
    return float(z)


def client_noise(
    privacy: Privacy,
    bounds: PublicBounds,
    *,
    clients: int,
    survivors: int,
    colluders: int,
    fraction_bits: int = 32,
    sums: int = 1,
    target_norm: float | None = None,
    waves: bool = False,
) -> Noise:
    """The noise that each client adds to each of `sums` sums over the same records.

    clients: members of the roster; survivors: the fewest that each sum must include (`SumPlan.survivors`);
    colluders: how many of them may know or leave out their noise: those colluding with the server, and one more if
    a client is itself curious. The noise of the others, survivors − colluders, is enough for (ε, δ).
    fraction_bits: the fewest of the fixed-point encoding. target_norm, waves: see `sensitivity`.

    Raises DataError unless 0 ≤ colluders < survivors ≤ clients.
    """
    if bounds.squares:
        raise DataError("expected bounds of a sum without YᵀY: noise for it is not planned")
    if not 0 <= colluders < survivors <= clients:
        raise DataError(
            f"expected more survivors than colluders, so that somebody's noise counts, got {survivors} survivors of "
            f"{clients} clients with {colluders} colluders"
        )
    moved = sensitivity(privacy, bounds, fraction_bits=fraction_bits, target_norm=target_norm, waves=waves)
    z, honest = multiplier(privacy, sums), survivors - colluders
    lengths = (bounds.features * (bounds.features + 1) // 2, bounds.features * bounds.outputs, 1)
    distances = (moved.gram, moved.cross, moved.count)
    given = math.fsum(share for share, distance in zip(_SHARES, distances, strict=True) if distance)
    blocks = tuple(
        Block(length, _rounded_up(z * distance * math.sqrt(given / share / honest)))
        for length, share, distance in zip(lengths, _SHARES, distances, strict=True)
    )
    # P[|draw| > reach·σ] ≤ 2·exp(−reach²/2) for each draw; a mechanism that differs from another one with a
    # probability of at most p, whatever the data, has at most (1 + exp(ε))·p more δ.
    draws = math.log(2) + math.log(bounds.length) + math.log(clients) + math.log(sums)
    risk = draws + privacy.epsilon + math.log(2) - math.log(privacy.delta * _BEYOND_REACH)
    return Noise(blocks, math.ceil(math.sqrt(2 * risk)))


def _rounded_up(value: float) -> Fraction:
    """The next number with 12 bits: parties whose logarithms differ in the last digit agree on it."""
    mantissa, exponent = math.frexp(value * (1 + 2.0**-30))
    return Fraction(math.ceil(mantissa * 2**12)) * Fraction(2) ** (exponent - 12)


class Sized(Shape, Protocol):
    """A shape, and the most rows of one client."""

    @property
    def rows(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Regularised:
    """statistics: of the noisy sum, the ridge on the diagonal of the Gram: solve them with ridge=0; ridge: that γ;
    noise_norm: the spectral norm that the Gram's noise exceeds with a probability of at most 2^-10."""

    statistics: SufficientStatistics
    ridge: float
    noise_norm: float


def regularise(
    total: Matrix, system: Sized, noise: Noise, *, survivors: int, ridge: float = 0.0
) -> Regularised:
    """What to solve in place of a sum with noise, whose Gram may have negative eigenvalues.

    AdaSSP (Wang, Revisiting differentially private linear regression, UAI 2018) picks the ridge by a private
    λ_min(G) and a bound on the noise; here the noisy Gram itself tells λ_min, so that it costs no privacy:
    γ = max(ridge·trace/d, τ/2 − λ_min(Ĝ)) with ‖Z‖ ≤ τ. A well-conditioned sum thus gets the penalty `ridge` asks for.

    total: the packed sum over `survivors` clients, each of whom added `noise`; system: its shape, and the most rows of
    a client. Public numbers only.
    Raises DataError for another shape, values that are not finite, or a negative ridge.
    """
    if total.shape != (packed_length(system),) or not np.isfinite(total).all():
        raise DataError(f"expected a finite sum of shape ({packed_length(system)},), got {total.shape}")
    if not (0 <= ridge <= 2.0**64 and survivors >= 1):
        raise DataError(f"expected a ridge from 0 to 2^64 and a survivor, got {ridge!r} and {survivors!r}")
    if system.squares:
        raise DataError("expected a sum without YᵀY: noise for it is not planned")
    d, triangle = system.features, system.features * (system.features + 1) // 2
    G, cross = symmetric(total[:triangle], d), total[triangle:-1].reshape(d, system.outputs)
    count = max(1, min(round(float(total[-1])), survivors * system.rows))
    from scipy.linalg import eigvalsh  # a node reads a study with privacy and solves nothing

    smallest, trace = float(eigvalsh(G)[0]), float(np.trace(G))
    # Entries of the upper triangle are independent: E λ_max(Z) ≤ 2σ√d (Slepian, against the orthogonal ensemble), and
    # λ_max is √2-Lipschitz in them, so λ_max ≤ 2σ√d + 2σ√ln(1/β) but for β; likewise −λ_min.
    sigma = float(noise.blocks[0].deviation) * math.sqrt(survivors)
    norm = 2 * sigma * (math.sqrt(d) + math.sqrt(math.log(2 / _NORM_RISK)))
    # What rounding can do to the eigenvalues and to the proof that `solve` makes, from the sum of their magnitudes.
    size = abs(trace) + 2 * d * max(0.0, -smallest) + d * norm
    floor = max(_FLOOR * norm, 8 * (gamma(2 * count + 2) + 16 * gamma(d + 8)) * size)
    shift = max(ridge * max(trace, 0.0) / d, floor - smallest)
    G[np.diag_indices_from(G)] += shift
    return Regularised(SufficientStatistics(G, cross, count), shift, norm)
