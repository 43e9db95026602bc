"""The secret key from decrypted CKKS sums (Li and Micciancio, eprint 2020/1533), and what keeps it in.

A decryption is exact but for the noise: encoded again, it is the polynomial c₀ + c₁·s itself. SEAL keeps ciphertexts
as values at the roots of unity, where that is one linear equation for each root. TenSEAL gives out the real part only,
which couples the roots ζ and ζ̄, places i and N − 1 − i: two unknowns, so two sums give all of the key.
"""

import numpy as np
import numpy.typing as npt
import pytest
from tenseal import sealapi

from secure_afl.crypto import ckks, seal
from secure_afl.crypto.ckks import Demand
from secure_afl.crypto.lattice import LATTICES, Lattice, Residues

COMPACT = LATTICES["ckks-compact"]
NVFLARE = Lattice(
    "nvflare", 8192, (1152921504606830593, 1099510890497), 1099511480321, scale_bits=40
)  # NVFlare's default: [60, 40, 40], 2⁴⁰
Reals = npt.NDArray[np.float64]


def aggregate(lattice: Lattice, public_key: bytes, n: int, size: float, seed: int) -> tuple[Residues, Reals]:
    """One ciphertext: the sum of n clients, and what it is exactly."""
    vectors = np.random.default_rng(seed).normal(size=(n, lattice.slots)) * size
    total = lattice.zeros(lattice.slots)
    for vector in vectors:
        lattice.add(total, seal.encrypt(lattice, public_key, vector))
    return total, vectors.sum(0)


def at_roots(lattice: Lattice, values: Reals) -> list[list[int]]:
    """Twice the polynomial that decodes to the values, at the roots of unity modulo each prime."""
    plain = sealapi.Plaintext()
    encoder = sealapi.CKKSEncoder(seal._context(lattice))
    encoder.encode(values.tolist(), 2.0 ** (lattice.scale_bits + 1), plain)
    count = len(lattice.primes) * lattice.degree
    return [
        [plain.data(at) for at in range(start, start + lattice.degree)]
        for start in range(0, count, lattice.degree)
    ]


def recovered(lattice: Lattice, sums: list[Residues], given_out: list[Reals]) -> list[list[int]]:
    """The secret key at the roots of unity modulo each prime, if what was given out is exact."""
    found = []
    opened = [at_roots(lattice, values) for values in given_out]
    for at, p in enumerate(lattice.primes):
        (a0, a1), (b0, b1) = (total[0, :, at].tolist() for total in sums)
        am, bm = opened[0][at], opened[1][at]
        key = [0] * lattice.degree
        for i in range(lattice.degree // 2):
            j = lattice.degree - 1 - i
            # a1[i]·s[i] + a1[j]·s[j] = am[i] − a0[i] − a0[j], and so for b.
            one, other = am[i] - a0[i] - a0[j], bm[i] - b0[i] - b0[j]
            inverse = pow(a1[i] * b1[j] - a1[j] * b1[i], -1, p)
            key[i] = (one * b1[j] - other * a1[j]) * inverse % p
            key[j] = (other * a1[i] - one * b1[i]) * inverse % p
        found.append(key)
    return found


def opened_with(lattice: Lattice, total: Residues, key: list[list[int]]) -> Reals:
    """A decryption with a recovered key: c₀ + c₁·s, which then decodes without any key."""
    opened = np.zeros_like(total)
    for at, p in enumerate(lattice.primes):
        c0, c1 = total[0, :, at].tolist()
        opened[0, 0, at] = [(a + b * s) % p for a, b, s in zip(c0, c1, key[at], strict=True)]
    return seal.decode(lattice, opened, lattice.slots)[0]


def places_right(lattice: Lattice, third: Residues, raw: Reals, key: list[list[int]]) -> int:
    """At how many pairs of roots a key gives the decryption that the key holder's own key gives."""
    count, want = 0, at_roots(lattice, raw)
    for at, p in enumerate(lattice.primes):
        c0, c1 = third[0, :, at].tolist()
        opened = [(a + b * s) % p for a, b, s in zip(c0, c1, key[at], strict=True)]
        count += sum((a + b - w) % p == 0 for a, b, w in zip(opened, opened[::-1], want[at], strict=True))
    return count


@pytest.mark.parametrize(("lattice", "size"), [(COMPACT, 100.0), (NVFLARE, 0.1)], ids=["compact", "nvflare"])
def test_two_raw_decryptions_give_the_whole_secret_key_away(
    lattice: Lattice, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weak design: what `SecretKey.decrypt` returns is given to the server, as TenSEAL's users do."""
    monkeypatch.setitem(LATTICES, lattice.name, lattice)
    holder = seal.SecretKey(lattice)
    sums = [aggregate(lattice, holder.public_key, 5, size, seed)[0] for seed in (1, 2)]
    key = recovered(lattice, sums, [holder.decrypt(one, lattice.slots)[0] for one in sums])
    # A third sum, that nobody ever decrypted for the server: it reads it, and one client's upload too.
    third, exact = aggregate(lattice, holder.public_key, 5, size, 3)
    upload, private = aggregate(lattice, holder.public_key, 1, size, 4)
    assert np.abs(opened_with(lattice, third, key) - exact).max() < 1e-3 * size
    assert np.abs(opened_with(lattice, upload, key) - private).max() < 1e-3 * size
    raw, _ = holder.decrypt(third, lattice.slots)
    assert places_right(lattice, third, raw, key) == len(lattice.primes) * lattice.degree


@pytest.mark.parametrize(("name", "size"), [("ckks-compact", 100.0), ("ckks-precise", 2.0**-8)])
def test_two_released_sums_give_nothing_of_the_key_away(name: str, size: float) -> None:
    """Ours: of two sums whose raw decryptions give the key away, what is released does not hit one place (a guess
    hits one in 2⁴⁶). `size` is in units of the code: small, so that float64 itself hides nothing.
    """
    lattice, n, bound = LATTICES[name], 5, 1000.0
    found, (code,) = ckks.choose([Demand(lattice.slots, bound, bound if name == "ckks-compact" else 1e-6)], n)
    assert found is lattice
    holder = seal.SecretKey(lattice)
    sums = [aggregate(lattice, holder.public_key, n, size, seed)[0] for seed in (1, 2)]
    raw = [holder.decrypt(one, lattice.slots)[0] for one in sums]
    flooded = [ckks.flood(one, lattice, code, n, 2) for one in sums]
    slots = [holder.decrypt(one, lattice.slots)[0] for one in flooded]
    released = [ckks.released(one, lattice, code, n, 2) for one in slots]
    third, exact = aggregate(lattice, holder.public_key, n, size, 3)
    want, _ = holder.decrypt(third, lattice.slots)
    every = len(lattice.primes) * lattice.degree
    assert places_right(lattice, third, want, recovered(lattice, sums, raw)) == every
    key = recovered(lattice, sums, [np.ldexp(values, code.fraction_bits) for values in released])
    assert places_right(lattice, third, want, key) == 0
    guessed = opened_with(lattice, third, key)
    assert abs(float(np.corrcoef(guessed, exact)[0, 1])) < 0.15  # nearly seven deviations of chance
