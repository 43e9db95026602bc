"""Parameter sets of the homomorphic schemes, and ciphertexts as plain arrays of residues.

A BFV or CKKS ciphertext is two polynomials of N coefficients modulo q, stored as residues modulo each prime of q. Only
these residues travel, and the parameter set fixes their number of bytes: no message tells the receiver how much to
allocate, and a server that adds arrays needs no homomorphic library. `seal` converts to and from TenSEAL.

The last prime of a set occurs only in keys and never travels with a ciphertext. Security: N = 4096 with a modulus of
109 bits in all, or 8192 with 218, gives 128 bits with ternary secrets (HomomorphicEncryption.org standard, 2018).
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import numpy.typing as npt

from secure_afl.crypto import ring
from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.kdf import KEY_BYTES, Label, derive
from secure_afl.crypto.prg import keystream

Residues = npt.NDArray[np.uint64]
"""Ciphertexts: (ciphertexts, 2, primes, N); a public key: (1, 2, primes with the last one, N)."""

_TAG_POINTS = 2


@dataclass(frozen=True)
class Lattice:
    """A named parameter set.

    degree: N. primes: of the ciphertext modulus, each 1 mod 2N. key_prime: the extra prime in keys.
    plain_modulus: BFV's t, a prime that is 1 mod 2N; 0 for CKKS. scale_bits: CKKS values are multiplied by
    2^scale_bits; 0 for BFV.
    """

    name: str
    degree: int
    primes: tuple[int, ...]
    key_prime: int
    plain_modulus: int = 0
    scale_bits: int = 0

    @property
    def slots(self) -> int:
        """Values in one ciphertext."""
        return self.degree if self.plain_modulus else self.degree // 2

    @cached_property
    def modulus(self) -> int:
        """q, the modulus of ciphertexts."""
        return prod(self.primes)

    @property
    def room(self) -> int:
        """The largest magnitude of an entry of a sum, in units of the encoding. CKKS leaves 2⁻⁸ of it to noise."""
        if self.plain_modulus:
            return self.plain_modulus // 2
        return self.modulus // 2 * 255 // 256 >> self.scale_bits

    def count(self, length: int) -> int:
        """Ciphertexts that hold a vector of this length."""
        return -(-length // self.slots)

    def zeros(self, length: int) -> Residues:
        """A sum of no ciphertexts."""
        return np.zeros((self.count(length), 2, len(self.primes), self.degree), np.uint64)

    def ciphertext_bytes(self, length: int) -> int:
        """Bytes on the wire of a vector of this length."""
        return self.count(length) * 2 * self.degree * sum(map(_width, self.primes))

    @property
    def public_key_bytes(self) -> int:
        return 2 * self.degree * sum(map(_width, (*self.primes, self.key_prime)))

    # ---- residues and bytes ----------------------------------------------------------------------

    def pack(self, residues: Residues) -> bytes:
        """The residues of ciphertexts as bytes, all of the first prime, then all of the second, …"""
        return pack_mod(residues, self.primes)

    def unpack(self, data: bytes | memoryview, length: int) -> Residues:
        """The ciphertexts of a vector. Raises `CryptoError` unless size and range are exact."""
        return unpack_mod(data, self.primes, (self.count(length), 2), self.degree)

    def pack_key(self, residues: Residues) -> bytes:
        """The residues of a public key as bytes."""
        return pack_mod(residues, (*self.primes, self.key_prime))

    def unpack_key(self, data: bytes | memoryview) -> Residues:
        """The residues of a public key. Raises `CryptoError` unless size and range are exact."""
        return unpack_mod(data, (*self.primes, self.key_prime), (1, 2), self.degree)

    # ---- arithmetic ------------------------------------------------------------------------------

    def add(self, total: Residues, residues: Residues) -> None:
        """`total += residues` in place, prime by prime."""
        add_mod(total, residues, self.primes)

    def tags(self, residues: Residues, seed: bytes) -> tuple[int, ...]:
        """Linear tags: for each prime two inner products with coefficients of 32 bits drawn from `seed`.

        The tags of a sum are the sums of the tags, prime by prime (`add_tags`). A wrong sum that is fixed before the
        seed is drawn passes with probability 2⁻⁶⁴ at most: it is wrong modulo at least one prime, and there each of
        two independent products is right for at most one in 2³² choices of a coefficient.
        """
        if len(seed) != KEY_BYTES:
            raise CryptoError(f"expected a seed of {KEY_BYTES} bytes, got {len(seed)}")
        found = []
        for at, prime in enumerate(self.primes):
            flat = residues[:, :, at, :].reshape(-1, self.degree)
            for point in range(_TAG_POINTS):
                key = derive(seed, Label.TAG_COEFFICIENTS, bytes([at, point]))
                stream = keystream(key)
                total = 0
                for row in flat:
                    draws = np.frombuffer(stream(4 * self.degree), "<u4").astype(np.uint64)
                    # 20 bits times 32 bits, 8192 products added: fits only for N ≤ 4096, so add in two halves.
                    for shift in range(0, prime.bit_length(), 20):
                        limbs = (row >> np.uint64(shift)) & np.uint64(2**20 - 1)
                        products = limbs * draws
                        half = self.degree // 2
                        total += (int(products[:half].sum()) + int(products[half:].sum())) << shift
                found.append(total % prime)
        return tuple(found)

    @property
    def no_tags(self) -> tuple[int, ...]:
        """The tags of a sum of nothing."""
        return (0,) * (_TAG_POINTS * len(self.primes))

    def add_tags(self, one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
        """The tags of a sum. Raises `CryptoError` unless both are tags of this set."""
        primes = [prime for prime in self.primes for _ in range(_TAG_POINTS)]
        for tags in (one, other):
            if len(tags) != len(primes) or any(not 0 <= tag < p for tag, p in zip(tags, primes, strict=True)):
                raise CryptoError(
                    f"expected {len(primes)} tags, each from 0 to below its prime, got {len(tags)} or a larger one"
                )
        return tuple((a + b) % prime for a, b, prime in zip(one, other, primes, strict=True))


def add_mod(total: Residues, residues: Residues, primes: tuple[int, ...]) -> None:
    """`total += residues` in place, for arrays whose axis before the last counts the primes."""
    total += residues
    for at, prime in enumerate(primes):
        part = total[..., at, :]
        np.subtract(part, np.uint64(prime), out=part, where=part >= prime)


def _width(prime: int) -> int:
    return max(min(ring.WIDTHS), -(-prime.bit_length() // 8))


def pack_mod(residues: Residues, primes: tuple[int, ...]) -> bytes:
    """Residues, shape (…, primes, N), as bytes: all of the first prime, then all of the second, …"""
    return b"".join(
        ring.pack(np.ascontiguousarray(residues[..., at, :]).reshape(-1), _width(prime))
        for at, prime in enumerate(primes)
    )


def unpack_mod(
    data: bytes | memoryview, primes: tuple[int, ...], shape: tuple[int, ...], degree: int
) -> Residues:
    """Residues of shape (*shape, primes, degree). Raises `CryptoError` unless size and range are exact."""
    words = prod(shape) * degree
    expected = words * sum(map(_width, primes))
    if len(data) != expected:
        raise CryptoError(f"expected residues in {expected} bytes, got {len(data)} bytes")
    residues = np.zeros((*shape, len(primes), degree), np.uint64)
    start, view = 0, memoryview(data)
    for at, prime in enumerate(primes):
        part = np.zeros(words, np.uint64)
        ring.add_packed(part, view[start : start + words * _width(prime)], _width(prime))
        if words and int(part.max()) >= prime:
            raise CryptoError("expected residues below their prime, got a larger residue")
        residues[..., at, :] = part.reshape(*shape, degree)
        start += words * _width(prime)
    return residues


# Primes as SEAL's CoeffModulus::Create and PlainModulus::Batching give them (a test compares);
# the 46-bit t is the fourth largest of its size.
_P60 = 1152921504606830593
_P40 = (1099511390209, 1099511480321)
_P46 = (70368743587841, 70368743669761)
_P56 = (72057594037338113, 72057594037370881, 72057594037616641)
LATTICES = {
    one.name: one
    for one in (
        Lattice("bfv-46", 4096, (_P60,), 40961, plain_modulus=70368743374849),
        Lattice("bfv-60", 4096, _P40, 114689, plain_modulus=1152921504606830593),
        Lattice("bfv-60-joint", 8192, _P56, 114689, plain_modulus=1152921504606830593),
        Lattice("ckks-compact", 4096, (_P60,), 40961, scale_bits=28),
        Lattice("ckks-precise", 4096, _P46, 114689, scale_bits=55),
    )
}
