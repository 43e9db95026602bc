"""A BFV key pair whose secret nobody holds: it is the sum of what n holders keep to themselves.

Over one public polynomial a, which a hash gives (`common`), holder i draws a ternary sᵢ and a small eᵢ and
shows bᵢ = −(a·sᵢ + eᵢ). Then (Σbᵢ, a) is an ordinary public key of the secret Σsᵢ; clients encrypt with it by
`seal.encrypt`, a server adds. To open a sum (c₀, c₁), each holder gives c₁·sᵢ + fᵢ with fresh, large, uniform
fᵢ, and c₀ + Σ(c₁·sᵢ + fᵢ) is the scaled message with its noise and Σfᵢ: `seal.decode` gives the exact sum.
From Asharov, Jain, López-Alt, Tromer, Vaikuntanathan and Wichs, "Multiparty computation with low
communication, computation and interaction via threshold FHE", Eurocrypt 2012 (eprint 2011/613); Mukherjee and
Wichs (eprint 2015/345) smudge the same way; Mouchet, Troncoso-Pastoriza, Bossuat and Hubaux (eprint 2020/304)
do it for BFV. It is n of n: one holder that is gone closes every ciphertext for good.

**Smudging.** All holders but one know everything in their sum but the last one's partial decryption, which is
Δ·m + e − c₀ − Σ(others' c₁·sⱼ) + f: but for the noise e of the sum it follows from the opened message, and e
is where the secret would leak. A uniform f in [−2^B, 2^B) shifted by e is within |e| / 2^(B+1) of f in
statistical distance (the smudging lemma of Asharov et al.), a coefficient. `smudging_bits` takes the largest
B that leaves room, and refuses if 2²⁰ coefficients could come over 2⁻⁴⁰ together. With "bfv-60-joint", 3
holders and 1,000 summands they stay below 2⁻⁶⁹. Distances add: k times as many coefficients, k times the
distance.

**A check, and its limit.** What is not the right partial decryption of this very ciphertext (another's, an
older one, one too few) leaves noise that is uniform modulo q. A coefficient passes for small with a
probability of 2^-LEAST_BUDGET, all N of a ciphertext with 2^(−2N): `bfv.checked` refuses on the budget that
`seal.decode` returns. It does *not* catch a holder that adds Δ·m': the ciphertext opens to m + m', exactly.
BFV is malleable and a partial decryption carries no proof. Holders are trusted with the sum's correctness,
not with its secrecy.

**What the caller must add.** A holder that picks its bᵢ after it saw the others' can cancel them and own the
key alone: everybody commits to bᵢ before anybody shows it. The bound on e holds for clients and holders that
draw as they should. A client that adds a large polynomial to c₁ gets a message that depends on the secret;
only proofs of well-formed ciphertexts would stop that, here as with one key holder. A holder opens a
ciphertext once, and only one that it knows to be the agreed sum.

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
"""So many coefficients of partial decryptions are within 2^-DISTANCE_BITS of what the sum alone tells."""

_ERROR_BITS = 21
_WORD = 62  # bits of the lower word of a smudging term: what `ntt.multiply` takes


def common(lattice: Lattice, transcript: bytes) -> Residues:
    """The public polynomial that nobody chose: uint64 (primes with the key prime, N), in transformed form.

    transcript: 32 bytes that the holders agree on. For each prime, words of an AES keystream below it.
    Raises `CryptoError` for a transcript of another length.
    """
    rows = []
    for prime in _key_primes(lattice):
        key = derive(transcript, Label.JOINT_POLYNOMIAL, lattice.name.encode(), integer(prime))
        rows.append(uniform(keystream(key), lattice.degree, prime))
    return np.stack(rows)


def smudging_bits(lattice: Lattice, holders: int, summands: int) -> int:
    """B: each holder adds uniform integers in [−2^B, 2^B) to its partial decryptions of a sum.

    The largest with noise + holders·2^B ≤ q/(2t) / 2^LEAST_BUDGET: the sum decrypts exactly, and SEAL still
    counts a budget of LEAST_BUDGET bits. Raises `CryptoError` if that is too little to hide the noise: unless
    SMUDGED_COEFFICIENTS · noise / 2^B ≤ 2^-DISTANCE_BITS, which is twice the distance of the smudging lemma.
    That some noise is over its bound (`bfv.noise`) has a probability of 2⁻⁴⁰, which comes on top.
    """
    if holders < 2 or summands < 1:
        raise CryptoError(f"expected two holders or more and a summand, got {holders} and {summands}")
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
    """One holder's part of the secret, from the operating system's randomness; it leaves this object by `kept` only.

    kept: what another object's `kept` gave, for the same part again. a: from `common`. public: its part of the joint key, for `public_key`; (primes with the key prime, N)
    residues in transformed form, packed. Raises `CryptoError` if `a` does not fit the set.
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
        """The secret, for the key holder's own store and nothing else."""
        return self._small.tobytes()

    def partial(self, total: Residues, holders: int, summands: int) -> Residues:
        """This holder's smudged partial decryption of a sum: uint64 (ciphertexts, primes, N).

        total: (ciphertexts, 2, primes, N), of so many summands. Give it once for a sum: the mean of many
        tells more. Raises `CryptoError` if `total` is no such array, and like `smudging_bits`.
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
    """The joint key of all holders' `public`, for `seal.encrypt` and as `Lattice.pack_key` packs it.

    Whether the shares were chosen independently is for the caller to see to. Raises `CryptoError` for fewer
    than two, for one that comes twice, and unless every share's size and range are exact.
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
    """The sum without the secret, for `seal.decode`: c₀ + Σ partials, and a second polynomial of zeros.

    total: (ciphertexts, 2, primes, N); partials: one a holder, (ciphertexts, primes, N). Their order does not
    matter. Believe the decoded values only after `bfv.checked`. Raises `CryptoError` for other shapes or
    ranges.
    """
    _check_total(lattice, total)
    result = np.zeros_like(total)
    result[:, 0] = total[:, 0]
    for partial in partials:
        _check(partial, (len(total), len(lattice.primes), lattice.degree), lattice.primes)
        add_mod(result[:, 0], partial, lattice.primes)
    return result


def pack_partial(lattice: Lattice, partial: Residues) -> bytes:
    """A partial decryption as bytes, half as many as the sum takes."""
    return pack_mod(partial, lattice.primes)


def unpack_partial(lattice: Lattice, data: bytes | memoryview, length: int) -> Residues:
    """A holder's partial decryption of a vector. Raises `CryptoError` unless size and range are exact."""
    return unpack_mod(data, lattice.primes, (lattice.count(length),), lattice.degree)


# ---- draws and checks --------------------------------------------------------------------------------


def _error(count: int) -> npt.NDArray[np.int64]:
    """Centred binomial: the ones among 21 random bits less those among 21 others; variance 10.5."""
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
        raise CryptoError("expected residues below their prime, got larger ones")
