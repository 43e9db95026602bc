"""A BFV key pair whose secret no party holds: it is the sum of n key holders' secret shares.

All use one public polynomial a, derived from a hash (`common`). Holder i draws a ternary sᵢ and a small eᵢ and
publishes bᵢ = −(a·sᵢ + eᵢ). Then (Σbᵢ, a) is an ordinary public key of the secret Σsᵢ. Clients encrypt under it with
`seal.encrypt`, and a server adds. To open a sum (c₀, c₁), each holder sends c₁·sᵢ + fᵢ with a fresh, large, uniform
fᵢ. Then c₀ + Σ(c₁·sᵢ + fᵢ) is the scaled message with its noise and Σfᵢ, and `seal.decode` gives the exact sum.
From Asharov, Jain, López-Alt, Tromer, Vaikuntanathan and Wichs, "Multiparty computation with low
communication, computation and interaction via threshold FHE", Eurocrypt 2012 (eprint 2011/613); Mukherjee and
Wichs (eprint 2015/345) smudge the same way; Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux (eprint 2020/304)
do it for BFV. All n holders are needed: if one is lost, no ciphertext can be opened any more.

**Smudging.** If all holders but one collude, the only value they do not know is the last holder's partial decryption,
Δ·m + e − c₀ − Σ(others' c₁·sⱼ) + f. The opened message determines it except for the noise e of the sum, and e could
leak the secret. A uniform f in [−2^B, 2^B) shifted by e is within |e| / 2^(B+1) of f in statistical distance, per
coefficient (the smudging lemma of Asharov et al.). `smudging_bits` takes the largest B that leaves room, and refuses
if the total distance of 2²⁰ coefficients could exceed 2⁻⁴⁰. With "bfv-60-joint", 3 holders and 1,000 summands it stays
below 2⁻⁶⁹. Distances add: k times as many coefficients, k times the distance.

**A check, and its limit.** A missing partial decryption, or one of a different ciphertext, leaves noise that is uniform
modulo q. One coefficient then looks small with probability 2^-LEAST_BUDGET, all N of a ciphertext with 2^(−2N), so
`bfv.checked` refuses on the budget that `seal.decode` returns. The check does *not* catch a holder that adds Δ·m': the
ciphertext then opens to exactly m + m'. BFV is malleable and a partial decryption carries no proof. Holders are trusted
with the sum's correctness, not with its secrecy.

**What the caller must do.**

- Collect commitments to all bᵢ before any bᵢ is published: a holder that picks its bᵢ after seeing the others can
  cancel theirs and own the key alone.
- Open each ciphertext once, and only if it is known to be the agreed sum.
- Know that the bound on e assumes clients and holders that draw as specified. A client that adds a large polynomial to
  c₁ gets a message that depends on the secret. Only proofs of well-formed ciphertexts would prevent this, as with one
  key holder.

Security is that of ring-LWE with ternary secrets and errors of deviation 3.24, both as in SEAL.
"""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from secure_afl.crypto.errors import CryptoError
from secure_afl.crypto.guarded import Guarded
from secure_afl.crypto.kdf import Label, derive, integer
from secure_afl.crypto.lattice import bfv, ntt
from secure_afl.crypto.lattice.parameter_sets import Lattice, Residues, add_mod, pack_mod, unpack_mod
from secure_afl.crypto.prg import keystream, uniform

SMUDGED_COEFFICIENTS = 2**20
DISTANCE_BITS = 40
"""Coefficients of partial decryptions that together stay within 2^-DISTANCE_BITS of what the sum alone reveals."""

_ERROR_BITS = 21
_WORD = 62  # bits of the lower word of a smudging term: the limit of `ntt.multiply`


def common(lattice: Lattice, transcript: bytes) -> Residues:
    """Derive the public polynomial from a hash: uint64 (primes with the key prime, N), in transformed form.

    transcript: 32 bytes that the holders agree on. Its AES keystream gives, for each prime, words below that prime.
    Raises `CryptoError` unless the transcript has 32 bytes.
    """
    rows = []
    for prime in _key_primes(lattice):
        key = derive(transcript, Label.JOINT_POLYNOMIAL, lattice.name.encode(), integer(prime))
        rows.append(uniform(keystream(key), lattice.degree, prime))
    return np.stack(rows)


def smudging_bits(lattice: Lattice, holders: int, summands: int) -> int:
    """B: each holder adds uniform integers in [−2^B, 2^B) to its partial decryptions of a sum.

    B is the largest number with noise + holders·2^B ≤ q/(2t) / 2^LEAST_BUDGET: then the sum decrypts exactly and SEAL
    still counts a budget of LEAST_BUDGET bits. Raises `CryptoError` unless this hides the noise:
    SMUDGED_COEFFICIENTS · noise / 2^B ≤ 2^-DISTANCE_BITS, twice the distance of the smudging lemma. In addition, the
    noise exceeds its bound (`bfv.noise`) with a probability of 2⁻⁴⁰.
    """
    if holders < 2 or summands < 1:
        raise CryptoError(f"expected at least 2 holders and 1 summand, got {holders} and {summands}")
    if not lattice.plain_modulus:
        raise CryptoError(f"{lattice.name} is for approximate sums; a joint key opens exact ones")
    noise = bfv.noise(lattice, summands, holders)
    room: int = lattice.modulus // (2 * 2**bfv.LEAST_BUDGET * lattice.plain_modulus) - int(noise) - 1
    bits = min((max(0, room) // holders).bit_length() - 1, 2 * _WORD - 1)  # two words hold no more
    if SMUDGED_COEFFICIENTS * noise * 2**DISTANCE_BITS > 2.0**bits:
        raise CryptoError(
            f"{lattice.name} has no room for {holders} holders to hide the noise of {summands} ciphertexts"
        )
    return bits


class KeyShare(Guarded):
    """A holder's share of the secret, from the operating system's randomness; only `kept` reveals it.

    a: from `common`. kept: the bytes of an earlier object's `kept`, to restore the same share. public: the share of the
    joint key, for `public_key`: packed residues (primes with the key prime, N) in transformed form.
    Raises `CryptoError` if `a` does not fit the set.
    """

    def __init__(self, lattice: Lattice, a: Residues, kept: bytes | None = None) -> None:
        primes = _key_primes(lattice)
        _check(a, (len(primes), lattice.degree), primes)
        self.lattice = lattice
        secret, error = (
            (uniform(os.urandom, lattice.degree, 3).view(np.int64) - 1, _error(lattice.degree))
            if kept is None
            else np.frombuffer(kept, "i1").astype(np.int64).reshape(2, lattice.degree)
        )
        self._small = np.stack((secret, error)).astype("i1")
        self._factors = []
        shown = np.empty_like(a)
        for at, prime in enumerate(primes):
            factors = ntt.factors(ntt.forward(_residues(secret, prime), prime), prime)
            total = ntt.multiply(a[at], factors, prime) + ntt.forward(_residues(error, prime), prime)
            shown[at] = (np.uint64(2 * prime) - total) % np.uint64(prime)
            self._factors.append(factors)
        self.public = pack_mod(shown, primes)

    def __repr__(self) -> str:
        return f"KeyShare({self.lattice.name})"

    def kept(self) -> bytes:
        """The secret, only for the key holder's own store."""
        return self._small.tobytes()

    def partial(self, total: Residues, holders: int, summands: int) -> Residues:
        """This holder's smudged partial decryption of a sum: uint64 (ciphertexts, primes, N).

        total: (ciphertexts, 2, primes, N), the sum of `summands` ciphertexts each. Call this once per sum: the mean
        of several answers reveals more. Raises `CryptoError` if `total` has another shape or range, and like
        `smudging_bits`.
        """
        lattice = self.lattice
        bits = smudging_bits(lattice, holders, summands)
        _check_total(lattice, total)
        upper, lower = _smudging(len(total) * lattice.degree, bits)
        result = np.empty((len(total), len(lattice.primes), lattice.degree), np.uint64)
        for at, prime in enumerate(lattice.primes):
            values = ntt.forward(total[:, 1, at], prime)
            product = ntt.inverse(ntt.multiply(values, self._factors[at], prime), prime)
            shift = ntt.factors(np.array([2**_WORD % prime], np.uint64), prime)
            smudge = ntt.multiply(upper, shift, prime) + lower % np.uint64(prime)
            smudge += np.uint64(prime - 2**bits % prime)
            result[:, at] = (product + smudge.reshape(product.shape)) % np.uint64(prime)
        return result


def public_key(lattice: Lattice, a: Residues, shares: Sequence[bytes]) -> bytes:
    """The joint public key of all holders' `public`, packed as by `Lattice.pack_key`, for `seal.encrypt`.

    The caller must ensure that the shares were chosen independently. Raises `CryptoError` for fewer than two shares,
    for a repeated share, and for a share of the wrong size or range.
    """
    primes = _key_primes(lattice)
    _check(a, (len(primes), lattice.degree), primes)
    if len(shares) < 2 or len(set(shares)) != len(shares):
        different = len(set(shares))
        raise CryptoError(f"expected two or more different key shares, got {different} of {len(shares)}")
    key = np.zeros((1, 2, len(primes), lattice.degree), np.uint64)
    key[0, 1] = a
    for share in shares:
        add_mod(key[0, 0], unpack_mod(share, primes, (), lattice.degree), primes)
    return lattice.pack_key(key)


def opened(lattice: Lattice, total: Residues, partials: Sequence[Residues]) -> Residues:
    """Combine partial decryptions for `seal.decode`: c₀ + Σ partials, and a second polynomial of zeros.

    total: (ciphertexts, 2, primes, N); partials: one per holder, (ciphertexts, primes, N), in any order. Trust the
    decoded values only after `bfv.checked`. Raises `CryptoError` for wrong shapes or ranges.
    """
    _check_total(lattice, total)
    result = np.zeros_like(total)
    result[:, 0] = total[:, 0]
    for partial in partials:
        _check(partial, (len(total), len(lattice.primes), lattice.degree), lattice.primes)
        add_mod(result[:, 0], partial, lattice.primes)
    return result


def pack_partial(lattice: Lattice, partial: Residues) -> bytes:
    """A partial decryption as bytes: half the size of the sum."""
    return pack_mod(partial, lattice.primes)


def unpack_partial(lattice: Lattice, data: bytes | memoryview, length: int) -> Residues:
    """A holder's partial decryption of a vector. Raises `CryptoError` unless size and range are exact."""
    return unpack_mod(data, lattice.primes, (lattice.count(length),), lattice.degree)


# ---- draws and checks --------------------------------------------------------------------------------


def _error(count: int) -> npt.NDArray[np.int64]:
    """Centred binomial: the number of ones in 21 random bits minus that in 21 other bits; variance 10.5."""
    words = np.frombuffer(os.urandom(8 * count), "<u8")
    ones = np.uint64(2**_ERROR_BITS - 1)
    error: npt.NDArray[np.int64] = np.bitwise_count(words & ones).astype(np.int64)
    error -= np.bitwise_count(words >> np.uint64(_ERROR_BITS) & ones)
    return error


def _smudging(count: int, bits: int) -> tuple[ntt.Words, ntt.Words]:
    """Uniform integers in [0, 2^(bits+1)): the words above and below 2⁶²."""
    words = np.frombuffer(os.urandom(16 * count), "<u8").reshape(2, count)
    below = min(bits + 1, _WORD)
    above = bits + 1 - below
    return words[0] & np.uint64(2**above - 1), words[1] & np.uint64(2**below - 1)


def _residues(small: npt.NDArray[np.int64], prime: int) -> Residues:
    residues: Residues = (small % np.int64(prime)).view(np.uint64)
    return residues


def _key_primes(lattice: Lattice) -> tuple[int, ...]:
    return (*lattice.primes, lattice.key_prime)


def _check_total(lattice: Lattice, total: Residues) -> None:
    _check(total, (*total.shape[:1], 2, len(lattice.primes), lattice.degree), lattice.primes)


def _check(residues: Residues, shape: tuple[int, ...], primes: tuple[int, ...]) -> None:
    if residues.dtype != np.uint64 or residues.shape != shape:
        raise CryptoError(f"expected uint64 of shape {shape}, got {residues.dtype} of {residues.shape}")
    if any(residues.size and int(residues[..., at, :].max()) >= prime for at, prime in enumerate(primes)):
        raise CryptoError("expected residues below their prime, got a larger residue")
