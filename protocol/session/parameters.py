"""Phase 0: the server's proposal, and the transcript that all later messages are bound to."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.msgpack import Decoder

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.fixed_point import FRACTION_BITS, FixedPoint
from secure_afl.crypto.hpke import Suite
from secure_afl.crypto.kdf import Label, digest
from secure_afl.crypto.noise import Noise
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.ledger import Spending
from secure_afl.protocol.session.profile import MODES, Mode, Verify
from secure_afl.protocol.session.profile import Profile as Profile  # noqa: PLC0414  # part of `Parameters`
from secure_afl.protocol.session.roster import Roster
from secure_afl.protocol.session.wire import (
    DIGEST_BYTES,
    VERSION,
    Message,
    WireError,
    encode,
    exact,
    increasing,
)

SESSION_BYTES = 32
_NAME_LENGTH = 64
REPLAYED_BYTES = 2**29
"""The most that the uploads of a sum have together where each client gets them all."""
Values = npt.NDArray[Any]
"""A client's vector, float64 or int64, see `SumPlan.encode`."""


class RoundSpec(Message, frozen=True, tag="round"):
    """One sum of the session: its public name, its length in values, and its fixed-point encoding.

    modulus: 0 if masks are mod 2^(8·width) and clients upload the masked vector. Otherwise masks are in Z_modulus, and
    the masked vector travels encrypted in another session.
    noise: digest of the noise that each client adds (`Noise`); empty without noise.
    """

    statistic: str
    length: int
    fraction_bits: int
    magnitude: int
    width: int
    modulus: int = 0
    noise: bytes = b""

    def __post_init__(self) -> None:
        if not (0 < len(self.statistic) <= _NAME_LENGTH and self.statistic.isprintable()):
            raise WireError(f"expected a printable statistic name of 1 to {_NAME_LENGTH} characters")
        if self.length < 1:
            raise WireError(f"expected a sum of at least 1 value, got {self.length}")
        if self.noise:
            exact("a digest of noise", self.noise, DIGEST_BYTES)
        if self.modulus and not 2**32 < self.modulus < 2**63:
            raise WireError(
                f"expected masks modulo 2^(8·width) or a modulus of 33 to 63 bits, got {self.modulus}"
            )

    @property
    def payload_bytes(self) -> int:
        """Size of a masked upload's payload."""
        return 0 if self.modulus else self.length * self.width

    @property
    def word_bytes(self) -> int:
        """Bytes of the words in which vectors are added and tags computed: 4 or 8."""
        return 8 if self.modulus else np.dtype(ring.words_of(self.width)).itemsize

    def encoding(self, summands: int) -> FixedPoint:
        """The fixed-point encoding for `summands` clients. Raises `CryptoError` if their sum can overflow."""
        return FixedPoint(self.fraction_bits, self.magnitude, summands, self.width)


@dataclass(frozen=True)
class VerifiedSum:
    """An opened sum that a client checked and accepted: with the survivors that it consented to, the sum of what they
    uploaded, as long as none of the session's clients helps the server (docs/verified-sums.md).

    survivors: members' numbers; digest: the same for every client that accepted it; packed: as it travelled.
    """

    spec: RoundSpec
    survivors: tuple[int, ...]
    digest: bytes
    packed: memoryview = field(repr=False)

    @property
    def units(self) -> npt.NDArray[np.int64]:
        """The sum in fixed-point units, exact."""
        return ring.unpacked(self.packed, self.spec.length, self.spec.width).astype(np.int64)

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """The sum as real numbers."""
        return np.ldexp(self.units.astype(np.float64), -self.spec.fraction_bits)

    @property
    def entry_error(self) -> float:
        """Bound on each entry's distance from the exact sum of what was encoded."""
        return self.spec.encoding(len(self.survivors)).entry_error(len(self.survivors))


@dataclass(frozen=True)
class SessionSums:
    """What a client knows of a session's sums when the session is over.

    verified: the sums that it accepted, by round. unverified: why it checks no sum; empty if it checks them. refused: whether
    it found a sum to be wrong, and so takes nothing that came of the session.
    """

    verified: Mapping[int, VerifiedSum]
    unverified: str = ""
    refused: bool = False


@dataclass(frozen=True)
class SumWanted:
    """A server's request for a client's vector. The answer comes from the client's `contribute`.

    verified: the session's sums that this client has accepted so far, by round; the vector may follow from them. None where
    clients do not check sums. session: its number, under masks.
    """

    round: int
    spec: RoundSpec
    participants: tuple[int, ...]
    verified: Mapping[int, VerifiedSum] | None = field(default=None, compare=False, repr=False)
    session: bytes = field(default=b"", compare=False)


@dataclass(frozen=True)
class RidgeSystem:
    """A least squares problem whose statistics are summed: what a key holder needs to release only its solution.

    features, outputs: the shape of the weights. rows: the most rows of one client, for sums with noise.

    ridge: the penalty; None lets generalised cross-validation choose it, if standardised.
    standardised: whether the first column is ones, whose weights are free, and ridge and column are those of
    `secure_afl.analytic.standardised.solve_standardised`; else ridge is that of `secure_afl.analytic.solve.solve`.
    target, column, weighted, names: see there. squares: whether YᵀY is in the sum.
    indicators: columns that are 0 or 1 in
    every row, by their numbers, if that is to help an approximate sum; not with weights.
    """

    features: int
    outputs: int
    ridge: float | None
    target: float = 1.0
    rows: int = 2**32
    standardised: bool = False
    column: float = 1.0
    weighted: bool = False
    squares: bool = False
    names: tuple[str, ...] = ()
    indicators: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.ridge is None and not self.standardised:
            raise LocalProtocolError(
                "a system that is not standardised needs a ridge: give a number from 0 to 2^64"
            )
        if self.ridge is not None and not 0 <= self.ridge <= 2.0**64:
            raise LocalProtocolError(f"expected a ridge from 0 to 2^64, got {self.ridge!r}")


@dataclass(frozen=True)
class SumPlan:
    """One sum that all parties agreed on before the session. A client refuses a server that asks for a different one.

    Parameters
    ----------
    statistic : str
        Its name, unique in a session.
    length : int
        Number of values of a client's vector.
    bound : float
        Public limit on the magnitude of each entry of a client's vector.
    fraction_bits : int, default=32
        The fewest allowed.
    survivors : int, default=0
        The fewest that this sum must include, if more than policies require.
    same_survivors : bool, default=False
        Marks sums over the same rows. The difference of two such sums with different survivors could reveal one client, so
        each must have exactly the survivors of the first.
    trusts_server : bool, default=False
        Whether a client's vector stays hidden only if the server reported earlier sums truthfully.
    exact : bool, default=False
        Whether values are multiples of 2^-fraction_bits and their sums need at most 53 bits.
    error : float, optional
        The largest tolerated error of an entry under CKKS, which is approximate; infinite: the best available.
    system : RidgeSystem, optional
        What the sum is for, if only a solution is needed.
    noise : Noise, optional
        What each client adds to its vector before sending, for differential privacy.
    spends : Spending, optional
        What all sums of the plan together then reveal of a record.
    units : bool, default=False
        Whether vectors are int64, in units of 2^-fraction_bits, which float64 could not hold.
    """

    statistic: str
    length: int
    bound: float
    fraction_bits: int = 32
    survivors: int = 0
    same_survivors: bool = False
    trusts_server: bool = False
    exact: bool = False
    error: float = inf
    system: RidgeSystem | None = None
    noise: Noise | None = None
    spends: Spending | None = None
    units: bool = False

    def __post_init__(self) -> None:
        if not (0 < len(self.statistic) <= _NAME_LENGTH and self.statistic.isprintable()):
            raise LocalProtocolError(f"expected a printable statistic name of 1 to {_NAME_LENGTH} characters")
        if self.length < 1 or not 0 < self.bound < inf or self.fraction_bits not in FRACTION_BITS:
            raise LocalProtocolError(
                f"expected a length of at least 1, a finite positive bound and -512..512 fraction bits, got "
                f"{self.length}, {self.bound} and {self.fraction_bits}"
            )
        if not self.error > 0:
            raise LocalProtocolError(f"expected an error above 0, got {self.error}")
        if self.units and (self.noise or self.exact):
            raise LocalProtocolError(
                f"expected {self.statistic!r}, a sum of units, without noise and not marked as exact in float64"
            )
        if self.noise and (self.noise.length != self.length or self.exact):
            raise LocalProtocolError(
                f"expected noise for {self.length} values of a sum that need not be exact, got it for "
                f"{self.noise.length} of {self.statistic!r}"
            )

    @property
    def largest(self) -> float:
        """Bound on the magnitude of each entry that a client uploads, noise included."""
        return self.noise.padded(self.bound) if self.noise else self.bound

    @property
    def noise_digest(self) -> bytes:
        """The digest of the noise for `RoundSpec`."""
        return self.noise.digest if self.noise else b""

    def encode(self, values: Values, encoding: FixedPoint) -> npt.NDArray[np.uint64]:
        """Encode `values` for upload, before masking or encryption, with fresh noise at each call.

        values: float64, or int64 if the plan is of `units`.

        Raises `CryptoError` for a value that is not finite or exceeds the bound, and like `Noise.draw`.
        """
        if self.units:
            return encoding.encode_units(values, self.fraction_bits)
        return self.noise.add(values, self.bound, encoding) if self.noise else encoding.encode(values)

    def spec(self, roster: int) -> RoundSpec:
        """The round that a server must propose to a roster of this size.

        It depends only on what was agreed, so no choice of the server (a cohort, a bound) can make a client's answer
        reveal its data. Raises `CryptoError` if 8-byte words cannot hold the sum.
        """
        encoding = FixedPoint.fit(self.largest, roster, self.fraction_bits)
        return RoundSpec(
            self.statistic,
            self.length,
            encoding.fraction_bits,
            encoding.magnitude,
            encoding.width,
            noise=self.noise_digest,
        )


def spending(plan: Sequence[SumPlan]) -> Spending | None:
    """What a whole session spends; None unless every sum has noise and they say the same."""
    found = {one.spends if one.noise else None for one in plan}
    return found.pop() if len(found) == 1 else None


Demands = tuple[tuple[int, bool, bool], ...]


def demands(plan: Sequence[SumPlan]) -> Demands:
    """The demands of a plan that `RoundSpec` omits: each sum's survivors, same_survivors and trusts_server."""
    return tuple((one.survivors, one.same_survivors, one.trusts_server) for one in plan)


def check_demands(plan: Sequence[SumPlan], kept: Demands) -> None:
    """Raises `WireError` unless the plan has the demands that the session began with."""
    if demands(plan) != kept:
        raise WireError(
            "expected the plan that the session began with, got a plan with different demands on survivors"
        )


class Parameters(Message, frozen=True, tag="parameters"):
    """All that the parties of a session agree on before they make keys.

    session: 32 fresh bytes from the server; no session runs twice.
    roster: digest of the roster; cohort: the invited members' indices in it, increasing.
    degree: neighbours of each client; threshold: shares that open a secret, and consents that open a sum.
    verify: whether clients check the opened sums; not under the semi-honest profile.
    """

    version: str
    session: bytes
    profile: Profile
    verify: Verify
    suite: Suite
    roster: bytes
    cohort: tuple[int, ...]
    degree: int
    threshold: int
    rounds: tuple[RoundSpec, ...]

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise WireError(f"expected protocol version {VERSION!r}, got {self.version[:32]!r}")
        exact("a session number", self.session, SESSION_BYTES)
        if self.mode not in MODES:
            raise WireError(
                f"expected sums that clients check under the active profile only, got {self.verify.value!r} under "
                f"{self.profile.value!r}"
            )
        exact("a roster digest", self.roster, DIGEST_BYTES)
        increasing("the cohort", self.cohort)
        n = len(self.cohort)
        if n < 2:
            raise WireError(f"expected a cohort of at least 2 clients, got {n}")
        complete = self.degree == n - 1
        if not complete and not (0 < self.degree < n - 1 and self.degree % 2 == 0):
            raise WireError(f"expected {n - 1} neighbours or an even number below, got {self.degree}")
        if self.profile is Profile.ACTIVE and not complete:
            # Only with the complete graph do all clients see the same directory, which their consents cover.
            raise WireError(f"expected {n - 1} neighbours under the active profile, got {self.degree}")
        if not 1 <= self.threshold <= self.degree + 1:
            raise WireError(f"expected a threshold of 1 to {self.degree + 1}, got {self.threshold}")
        if not self.rounds:
            raise WireError("expected at least one round")
        planned: set[str] = set()
        for spec in self.rounds:
            if spec.statistic in planned:
                raise WireError(f"{spec.statistic!r} is planned twice: each sum of a session is made once")
            planned.add(spec.statistic)
            if spec.modulus != self.rounds[0].modulus:
                raise WireError("expected the same mask modulus in all rounds, got different ones")
            try:
                magnitude = spec.encoding(n).magnitude
            except CryptoError as error:
                raise WireError(f"{spec.statistic}: {error}") from None
            if spec.modulus and n * magnitude > spec.modulus // 2:
                raise WireError(f"{spec.statistic}: a sum of {n} clients can overflow the modulus")
            if self.verify is Verify.REPLAY and (spec.modulus or n * spec.payload_bytes > REPLAYED_BYTES):
                raise WireError(
                    f"{spec.statistic}: clients can replay masked sums whose uploads have at most {REPLAYED_BYTES:,} bytes together, "
                    f'and no encrypted ones, got {n} uploads of {spec.length} values: agree on verify = ["tags"]'
                )

    @property
    def mode(self) -> Mode:
        """Which messages the session has."""
        return self.profile, self.verify

    @property
    def encrypted(self) -> bool:
        """Whether the masked vectors travel encrypted."""
        return bool(self.rounds[0].modulus)

    @property
    def complete(self) -> bool:
        """Whether every two clients are neighbours."""
        return self.degree == len(self.cohort) - 1

    def transcript(self) -> bytes:
        """32 bytes that every signature, key and sealed message of the session includes."""
        return digest(Label.TRANSCRIPT, encode(self))

    @classmethod
    def propose(
        cls,
        roster: Roster,
        plan: Sequence[SumPlan],
        *,
        profile: Profile,
        suite: Suite,
        degree: int,
        threshold: int,
        cohort: Sequence[int] | None = None,
        rounds: Sequence[RoundSpec] | None = None,
        verify: Verify | None = None,
    ) -> "Parameters":
        """Propose a fresh session for `cohort` (indices in the roster; by default the whole roster).

        rounds: the rounds as agreed for encrypted transport, if masked vectors are also encrypted. verify: None takes
            what the profile has by default.
        """
        invited = tuple(cohort) if cohort is not None else tuple(range(len(roster.members)))
        return cls(
            version=VERSION,
            session=secrets.token_bytes(SESSION_BYTES),
            profile=profile,
            verify=verify or (Verify.TAGS if profile is Profile.ACTIVE else Verify.NONE),
            suite=suite,
            roster=roster.digest,
            cohort=invited,
            degree=degree,
            threshold=threshold,
            rounds=tuple(rounds or (one.spec(len(roster.members)) for one in plan)),
        )


PARAMETERS = Decoder(Parameters)
