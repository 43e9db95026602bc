"""The terms of an encrypted session, agreed on before keys are made."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from msgspec.msgpack import Decoder

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import Label, digest
from secure_afl.crypto.lattice import bfv, ckks, joint_key
from secure_afl.crypto.lattice.parameter_sets import LATTICES, Lattice
from secure_afl.protocol.session.backend import ENCRYPTED, Backend, parse
from secure_afl.protocol.session.errors import LocalProtocolError
from secure_afl.protocol.session.parameters import SESSION_BYTES, RoundSpec, SumPlan
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


class Release(Enum):
    """What key holders give to the server: the sum, or only the solution of its least squares system."""

    SUM = "sum"
    WEIGHTS = "weights"


RELEASES = tuple(one.value for one in Release)


@dataclass(frozen=True)
class Encryption:
    """How sums are encrypted, agreed on beforehand like the plan. Parties refuse a server that proposes a different way.

    backend: an encrypting one.
    """

    backend: Backend
    release: Release = Release.SUM

    def __post_init__(self) -> None:
        parse(self.backend, ENCRYPTED)
        if self.masked and self.release is Release.WEIGHTS:
            raise LocalProtocolError("key holders cannot solve a masked sum: release the sum")

    @classmethod
    def of(cls, backend: Backend, release: str | None = None) -> "Encryption":
        """The encryption with a release by name. None: weights for CKKS, as its sums would reveal the key; otherwise sums.
        Raises `LocalProtocolError` for an unknown name.
        """
        if release not in (None, *RELEASES):
            raise LocalProtocolError(f"expected release {' or '.join(RELEASES)}, got {release!r}")
        if release:
            return cls(backend, Release(release))
        return cls(backend, Release.SUM if backend.exact else Release.WEIGHTS)

    @property
    def masked(self) -> bool:
        """Whether the encrypted vectors are masked: then server and key holders together see only the sum."""
        return self.backend.masked

    def agreed(
        self, plan: Sequence[SumPlan], members: int, holders: int
    ) -> tuple[Lattice, tuple[RoundSpec, ...]]:
        """The parameter set and the rounds for a roster of `members` clients, from the agreed settings alone.

        Raises `CryptoError` if no set holds the sums, `LocalProtocolError` for an impossible plan.
        """
        if self.release is Release.WEIGHTS:
            for one in plan:
                if one.system is None:
                    raise LocalProtocolError(
                        f"{one.statistic!r} is no system that key holders could solve: release the sum"
                    )
        if holders > 1 and (not self.backend.exact or self.release is Release.WEIGHTS):
            raise LocalProtocolError("a committee of key holders opens sums under BFV, nothing else")
        if not self.backend.exact:
            if noisy := [one.statistic for one in plan if one.noise]:
                raise LocalProtocolError(
                    f"{noisy[0]!r} has noise for differential privacy, which needs exact sums: use mask, bfv or bfv+mask"
                )
            lattice, encodings = ckks.choose(
                [ckks.Demand(one.length, one.bound, one.error) for one in plan], members
            )
        else:
            sets = bfv.SETS if holders == 1 else bfv.JOINT_SETS
            lattice, encodings = bfv.choose(
                [bfv.Demand(one.largest, one.fraction_bits) for one in plan], members, sets
            )
            if holders > 1:
                joint_key.smudging_bits(lattice, holders, members)  # raises if no sum could be opened
        modulus = lattice.plain_modulus if self.masked else 0
        return lattice, tuple(
            RoundSpec(
                one.statistic,
                one.length,
                encoding.fraction_bits,
                encoding.magnitude,
                encoding.width,
                modulus,
                one.noise_digest,
            )
            for one, encoding in zip(plan, encodings, strict=True)
        )


class Agreement(Message, frozen=True, tag="agreement"):
    """The server's proposal to clients and key holders, the same bytes to all.

    session: 32 fresh bytes, or those of the masked session. masks: the transcript of the masked session whose vectors
    are encrypted here, or empty. roster, holders: digests of the two rosters. cohort: the invited members' indices,
    increasing. Parties are indexed: the roster's members, then the key holders.
    """

    version: str
    session: bytes
    lattice: str
    release: Release
    masks: bytes
    roster: bytes
    holders: bytes
    cohort: tuple[int, ...]
    rounds: tuple[RoundSpec, ...]

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise WireError(f"expected protocol version {VERSION!r}, got {self.version[:32]!r}")
        exact("a session number", self.session, SESSION_BYTES)
        for name, value in (("a roster digest", self.roster), ("a digest of key holders", self.holders)):
            exact(name, value, DIGEST_BYTES)
        if self.masks:
            exact("a transcript of masks", self.masks, DIGEST_BYTES)
        if self.lattice not in LATTICES:
            raise WireError(f"expected one of {', '.join(LATTICES)}, got {self.lattice[:32]!r}")
        increasing("the cohort", self.cohort)
        if len(self.cohort) < 2 or not self.rounds:
            raise WireError("expected at least 2 clients and one round")
        planned: set[str] = set()
        for spec in self.rounds:
            if spec.statistic in planned:
                raise WireError(f"{spec.statistic!r} is planned twice: each sum of a session is made once")
            planned.add(spec.statistic)
            if spec.modulus != (LATTICES[self.lattice].plain_modulus if self.masks else 0):
                raise WireError(f"{spec.statistic}: the masks of this sum are not those of the session")
            try:
                magnitude = spec.encoding(len(self.cohort)).magnitude
            except CryptoError as error:
                raise WireError(f"{spec.statistic}: {error}") from None
            if len(self.cohort) * magnitude > LATTICES[self.lattice].room:
                raise WireError(f"{spec.statistic}: a sum of {len(self.cohort)} clients can overflow")

    def transcript(self) -> bytes:
        """32 bytes that every signature and message of the session includes."""
        return digest(Label.TRANSCRIPT, encode(self))

    @property
    def encryption(self) -> Encryption:
        """How sums are encrypted. Raises `LocalProtocolError` for an impossible combination."""
        if LATTICES[self.lattice].plain_modulus:
            return Encryption(Backend.BFV_MASK if self.masks else Backend.BFV, self.release)
        if self.masks:
            raise LocalProtocolError("expected masks under BFV only, got them under CKKS")
        return Encryption(Backend.CKKS, self.release)

    @property
    def decryptions(self) -> int:
        """Number of ciphertexts opened in the whole session."""
        return sum(LATTICES[self.lattice].count(spec.length) for spec in self.rounds)

    def entry_error(self, number: int, plan: SumPlan, members: int, survivors: int) -> float:
        """Bound on the error of each entry of an opened sum, compared with the exact sum of the survivors' values.

        members: number in the roster. The bound is proven for BFV; for CKKS see `ckks.entry_error`.
        """
        lattice, encoding = LATTICES[self.lattice], self.rounds[number].encoding(members)
        if not lattice.plain_modulus:
            return ckks.entry_error(lattice, encoding, survivors, self.decryptions)
        return 0.0 if plan.exact else encoding.entry_error(survivors)

    @classmethod
    def propose(
        cls,
        encryption: Encryption,
        roster: Roster,
        holders: Roster,
        plan: Sequence[SumPlan],
        *,
        cohort: Sequence[int] | None = None,
        masked: tuple[bytes, bytes] | None = None,
    ) -> "Agreement":
        """Propose a fresh session for `cohort` (by default the whole roster). masked: number and transcript of the masked
        session whose vectors it encrypts.
        """
        lattice, rounds = encryption.agreed(plan, len(roster.members), len(holders.members))
        session, masks = masked or (secrets.token_bytes(SESSION_BYTES), b"")
        return cls(
            version=VERSION,
            session=session,
            lattice=lattice.name,
            release=encryption.release,
            masks=masks,
            roster=roster.digest,
            holders=holders.digest,
            cohort=tuple(cohort) if cohort is not None else tuple(range(len(roster.members))),
            rounds=rounds,
        )


AGREEMENT = Decoder(Agreement)
